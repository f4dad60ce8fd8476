"""What may stand in one column: evaluations of the same rows, made and measured in the same way.

All others stand apart, each group with what sets it apart. Nothing is left out, and nothing is compared across groups.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field

from empathy_trl.leaderboard.entries import Entry
from empathy_trl.model_card.results import judge_digest

NO_ROWS = "which rows it saw is not recorded (an older evaluation)"


@dataclass
class Group:
    """Evaluations that may be compared.

    Attributes:
        facts: what they have in common: kind, data, split, rows, metrics_version, decoding, judged_by.
        entries: at least one.
        first: place among all groups, from 0, of the largest one of the same kind and data.
        reasons: how the facts differ from those of that one.
        repeated: results that were left out because the same model has the same figures here already.
    """

    facts: dict
    entries: list[Entry]
    first: int = 0
    reasons: list[str] = field(default_factory=list)
    repeated: int = 0


def group(entries: list[Entry]) -> list[Group]:
    """Sort evaluations into groups; those of one kind and data set follow each other, the largest first."""
    by_facts: dict[str, Group] = {}
    for entry in entries:
        facts = facts_of(entry.evaluation)
        by_facts.setdefault(json.dumps(facts, sort_keys=True), Group(facts, [])).entries.append(entry)
    groups = list(by_facts.values())
    for each in groups:
        _leave_out_repeated(each)
    size = Counter()
    for each in groups:
        size[_family(each)] += len(each.entries)
    groups.sort(
        key=lambda each: (
            -size[_family(each)],
            _family(each),
            -len(each.entries),
            json.dumps(each.facts, sort_keys=True),
        )
    )
    first: dict[tuple, int] = {}
    for place, each in enumerate(groups):
        each.first = first.setdefault(_family(each), place)
        each.reasons = reasons(groups[each.first].facts, each.facts)
    return groups


def facts_of(evaluation: dict) -> dict:
    """Return what has to be equal in two evaluations whose figures are compared.

    The seed of a sampled decoding is not part of it: it decides which words were drawn, not how.
    """
    data = evaluation["data"]
    rows = data.get("rows")
    facts = {
        "kind": evaluation["kind"],
        "data": data.get("name"),
        "split": data["split"],
        "rows": rows,
        "metrics_version": evaluation.get("metrics_version"),
        "decoding": re.sub(r", seed \d+$", "", data["decoding"]) if data.get("decoding") else None,
        "judged_by": judge_digest(evaluation.get("judged_by") or None),
    }
    if rows is None:  # then all that is said of them must be equal; who says less is taken at its word
        facts |= {"source": data["source"], "revision": data.get("revision"), "n": data.get("n")}
    return facts


def reasons(first: dict, facts: dict) -> list[str]:
    """Return in words how the facts of a group differ from those of the first of its kind and data set."""
    wrong = []
    if facts["split"] != first["split"]:
        wrong.append(f"another split: {facts['split']}, not {first['split']}")
    if facts["rows"] is None:
        wrong.append(NO_ROWS)
    elif facts["rows"] != first["rows"] and facts["split"] == first["split"]:
        wrong.append("other rows")
    if facts["metrics_version"] is None:
        wrong.append("the version of its metrics is not recorded (an older evaluation)")
    elif facts["metrics_version"] != first["metrics_version"]:
        wrong.append(f"metrics version {facts['metrics_version']}, not {first['metrics_version'] or 'recorded above'}")
    if facts["decoding"] != first["decoding"]:
        wrong.append(f"other decoding: {facts['decoding'] or 'not recorded'}")
    if facts["judged_by"] != first["judged_by"]:
        wrong.append("judged by other rewards, or with other weights")
    return wrong


def _family(each: Group) -> tuple[str, str]:
    return each.facts["kind"], str(each.facts["data"])


def _leave_out_repeated(each: Group) -> None:
    """Keep a model once that has the same figures twice. Where they differ both stay: nothing says which is right."""
    kept: dict[str, Entry] = {}
    for entry in each.entries:
        same = json.dumps([entry.evaluation["model"], entry.evaluation["metrics"]], sort_keys=True)
        there = kept.setdefault(same, entry)
        if there.folder and entry.folder and _has_predictions(entry) and not _has_predictions(there):
            kept[same] = entry  # the one that can be compared row by row
    each.repeated = len(each.entries) - len(kept)
    each.entries = list(kept.values())


def _has_predictions(entry: Entry) -> bool:
    return entry.folder.joinpath(f"predictions_{entry.evaluation['data']['split']}.jsonl").is_file()

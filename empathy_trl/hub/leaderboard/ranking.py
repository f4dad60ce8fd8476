"""Which results can be compared, and the rank of each.

Results on the same rows, generated and measured in the same way, form a group (`group`). Every other result is in a
separate group, with the reason. Nothing is left out, and nothing is compared across groups.

The rank of a model is 1 + the number of models that are significantly better at the 5 % level, by the main metric:

* by a paired bootstrap, if both evaluations have the same rows and predictions: the rows are resampled for both at
  once, and the interval of the difference must exclude 0 (Koehn 2004; `evaluation.metrics.bootstrap`); of results over several
  seeds, the seeds are resampled, too;
* otherwise by the two intervals, which must not overlap. This is stricter than a test (Schenker and Gentleman 2001, The
  American Statistician 55), and it is all that the values in a model card allow.

Ties are not transitive: A may be better than C while B differs significantly from neither. Then A and B share rank 1,
and C has rank 2. A rank is the best one that is consistent with the comparisons, as in Mogstad, Romano, Shaikh and
Wilhelm ("Inference for Ranks", Review of Economic Studies 2024), without their correction for the number of
comparisons; Chatbot Arena ranks by overlapping intervals in the same way (Chiang et al. 2024, arXiv 2403.04132).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.evaluation.compare import Result, Results, changes_of, check_all_rows, read_result, row_change
from empathy_trl.evaluation.metrics.bootstrap import paired_statistics
from empathy_trl.hub.leaderboard.entries import Entry
from empathy_trl.hub.results import judge_digest


@dataclass
class Ranking:
    """The ranks of some evaluations, and how they were found.

    Attributes:
        ranks: one per entry, from 1.
        paired: the number of pairs that were compared row by row.
        pairs: the number of all pairs.
        problems: one line for each file of predictions that could not be used.
    """

    ranks: list[int]
    paired: int
    pairs: int
    problems: list[str]


@dataclass
class _Rows:
    """What the predictions of an entry say of its main metric: scores of shape (seeds, rows), in which NaN is no score, or a
    function of row numbers per seed. Without several seeds, there is one."""

    results: Results
    scores: np.ndarray | None = None
    method: str | None = None
    statistics: list[Callable] = field(default_factory=list)


def rank(entries: list[Entry]) -> Ranking:
    """Rank the evaluations of one group (see `group`) by the rule above."""
    problems = []
    rows = [_read(entry, problems) for entry in entries] if len(entries) > 1 else []
    better, paired = [0] * len(entries), 0
    for i, j in combinations(range(len(entries)), 2):
        change = _paired_change(rows[i], rows[j])
        paired += change is not None
        sign = _sign(*change) if change else _apart(entries[i].main, entries[j].main)
        sign *= direction(entries[i].evaluator.main_metric)
        better[i] += sign > 0
        better[j] += sign < 0
    return Ranking([1 + count for count in better], paired, math.comb(len(entries), 2), problems)


def _sign(low: float, high: float) -> int:
    """Return on which side of 0 an interval lies, 0 where it holds 0."""
    return int(low > 0) - int(high < 0)


def _apart(one: dict, other: dict) -> int:
    """Return 1 if the interval of the second figure lies above that of the first, -1 if below, 0 where they overlap."""
    ends = [figure.get(key) for figure in (one, other) for key in ("low", "high")]
    if None in ends:
        return 0
    return _sign(ends[2] - ends[1], ends[3] - ends[0])


def _read(entry: Entry, problems: list[str]) -> _Rows | None:
    """Return what an entry's predictions say of its main metric; None where they are missing, say nothing or another figure."""
    evaluation, split = entry.evaluation, entry.evaluation["data"]["split"]
    if entry.folder is None or evaluation["data"].get("rows") is None:
        return None
    if not entry.folder.joinpath(f"predictions_{split}.jsonl").is_file():
        return None
    try:
        results = {seed: read_result(folder, split) for seed, folder in entry.folders.items()}
        rows = _of_rows(results) if entry.evaluator.paired else _of_all(results)
    except UserError as error:
        problems.append(str(error))
        return None
    if rows is None:
        return None
    for result, value in zip(results.values(), _values(rows), strict=True):
        if not result.reports(entry.evaluator.main_metric, value):
            origin = entry.origin if len(results) == 1 else result.folder / f"eval_{split}.json"
            problems.append(
                f"{result.folder}: predictions_{split}.jsonl gives another {entry.evaluator.main_metric} than {origin}"
            )
            return None
    return rows


def _of_rows(results: Results) -> _Rows:
    return _Rows(results, scores=np.stack([_scores(result) for result in results.values()]))


def _scores(result: Result) -> np.ndarray:
    try:
        return np.array([result.evaluator.row_score(row) for row in result.rows], dtype=float)  # None becomes NaN
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{result.folder}: a row has no score ({type(error).__name__}: {error})") from error


def _of_all(results: Results) -> _Rows | None:
    statistics, methods = [], []
    for result in results.values():
        main = result.evaluator.main_metric
        found = [(method, *of) for method, of in result.statistics().items() if main in of[0]]
        if not found:
            return None
        method, names, function = found[0]
        statistics.append(_column(function, list(names).index(main)))
        methods.append(method)
    return _Rows(results, method=methods[0], statistics=statistics)


def _column(function: Callable, place: int) -> Callable:
    return lambda rows: function(rows)[..., [place]]


def _values(rows: _Rows) -> list[float]:
    """Return what the predictions give as the main metric, for every seed."""
    if rows.statistics:
        every = np.arange(len(next(iter(rows.results.values())).rows))
        return [float(statistic(every)[0]) for statistic in rows.statistics]
    there = [[score for score in scores.tolist() if not math.isnan(score)] for scores in rows.scores]
    return [sum(scores) / len(scores) if scores else math.nan for scores in there]


def _paired_change(one: _Rows | None, other: _Rows | None) -> tuple[float, float] | None:
    """Return the 95 % interval of other minus one on the same rows; None where that cannot be had."""
    if one is None or other is None:
        return None
    try:
        check_all_rows([*one.results.values(), *other.results.values()])
    except UserError:  # the files are not of the evaluations beside them; their intervals still hold
        return None
    same_seeds = one.results.keys() == other.results.keys()
    if one.statistics:
        n = len(next(iter(one.results.values())).rows)
        test = changes_of(one.method, one.statistics, other.statistics, same_seeds, n)[0]
    else:
        there = ~np.isnan([*one.scores, *other.scores]).any(axis=0)
        n = int(there.sum())
        if not n:
            return None
        test = paired_statistics(row_change(one.scores[:, there], other.scores[:, there], same_seeds), n)[0]
    return (test["low"], test["high"]) if n > 1 else (-math.inf, math.inf)  # one row tells nothing


NO_ROWS = "which rows it saw is not recorded (an older evaluation)"


@dataclass
class Group:
    """Evaluations that may be compared.

    Attributes:
        facts: what they have in common: kind, data, split, rows, metrics_version, decoding, judged_by.
        entries: at least one.
        first: the position among all groups, from 0, of the largest one of the same kind and data.
        reasons: how the facts differ from those of that group.
        repeated: the number of results that were left out because they repeat another.
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
    for position, each in enumerate(groups):
        each.first = first.setdefault(_family(each), position)
        each.reasons = reasons(groups[each.first].facts, each.facts)
    return groups


def facts_of(evaluation: dict) -> dict:
    """Return what has to be equal in two evaluations whose figures are compared.

    The seed of a sampled decoding may differ.
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
    if rows is None:  # then everything else that describes them must be equal
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
    """Keep one of the results of a model with the same figures; results with different figures all stay."""
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


# such as the length of a reply: shown, and neither more nor less is better
NEITHER = ("stated value", "reply_words", "thought_words", "mean_reasoning_words", "mean_thought_words", "item_ratio")
LESS = ("perplexity", "mae", "invalid_share", "empty_share", "duplicate_share")


def direction(metric: str) -> int:
    """Return 1 if more of a metric is better, -1 if less is better, 0 if neither."""
    metric = metric.partition(" by ")[0]  # see `table`
    if metric in NEITHER or metric.endswith("_difference"):
        return 0
    if metric.startswith(LESS) or metric.endswith("_mse"):
        return -1
    # levels of empathy: human replies are far from the highest
    if metric.startswith("epitome_") and not metric.endswith("_pearson"):
        return 0
    return 1

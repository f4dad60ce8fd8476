"""The results of a leaderboard, from `eval_<split>.json` files, model cards on the Hub, and `published.yaml`.

Each unreadable source is reported in one line, and the others still count.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
)
from yaml import YAMLError

from empathy_trl.cli import Progress
from empathy_trl.errors import UserError, show
from empathy_trl.evaluation import evaluator
from empathy_trl.evaluation.compare import check_evaluation
from empathy_trl.hub.pull import hub_requests, retry
from empathy_trl.hub.results import from_results, is_finite
from empathy_trl.io import nearest_path, read_json, user_path
from empathy_trl.text import mask, sanitise

SPLITS = ("train", "valid", "test")
DATA_TEXTS = ("name", "revision", "rows", "decoding")  # keys of `data` that are texts or null
FILES = {f"eval_{split}.json": split for split in SPLITS}


@dataclass
class Entry:
    """One evaluation.

    Attributes:
        evaluation: what `eval_<split>.json` holds, or as much of it as a model card does.
        origin: the file, or the id on the Hub, for messages.
        folder: the folder that may hold `predictions_<split>.jsonl`; None for a card.
    """

    evaluation: dict
    origin: str
    folder: Path | None = None

    @property
    def evaluator(self):
        """The evaluator that knows how it was evaluated."""
        return evaluator(self.evaluation["kind"])

    @property
    def main(self) -> dict:
        """The figure that decides the rank."""
        return self.evaluation["metrics"][self.evaluator.main_metric]


@dataclass
class Found:
    """The evaluations that were read, and a line for each that could not be read."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_paths(paths: list[str | Path], split: str | None = None) -> Found:
    """Read all `eval_<split>.json` files among and below some paths, each once.

    Args:
        paths: files, or folders of any depth; hidden folders and links to folders are not entered.
        split: train, valid or test; None reads all.

    Raises:
        UserError: a path does not exist or is another file, or there is nothing to read.
    """
    files = _unique(file for path in paths for file in _files(user_path(path)))
    files = [file for file in files if split in (None, FILES[file.name])]
    where, wanted = ", ".join(map(str, paths)), f"eval_{split}.json" if split else "eval_test.json or another split's"
    if not files:
        raise UserError(
            f"{where}: no results; looked for {wanted}, there and in all folders below. empathy-trl run and "
            "empathy-trl evaluate write them"
        )
    found = Found()
    for file in files:
        try:
            found.entries.append(make_entry(read_json(file), str(file), file.parent))
        except (UserError, OSError) as error:
            found.problems.append(str(error))
    if not found.entries:
        raise UserError(f"{where}: no results that can be read:\n" + "\n".join(found.problems))
    return found


def make_entry(evaluation, origin: str, folder: Path | None = None) -> Entry:
    """Return an evaluation that a leaderboard can show, with its texts made safe to print.

    Raises:
        UserError: it is not an evaluation, or lacks something; the message names origin, key and value.
    """
    # a card has a digest in place of the rewards
    of_card = isinstance(evaluation, dict) and isinstance(evaluation.get("judged_by"), str)
    check_evaluation(origin, evaluation | {"judged_by": {}} if of_card else evaluation)
    main = evaluator(evaluation["kind"]).main_metric
    if main not in evaluation["metrics"]:
        raise UserError(f"{origin}: metrics has no {main}, by which evaluations of {evaluation['kind']} are ranked")
    _check_data(origin, evaluation["data"])
    _check_figures(origin, "metrics", evaluation["metrics"])
    _check_baselines(origin, evaluation.get("baselines"))
    return Entry(_sanitise(evaluation), origin, folder)


def _check_data(origin: str, data: dict) -> None:
    if data["split"] not in SPLITS:
        raise UserError(f"{origin}: data.split is {show(data['split'])}; expected {', '.join(SPLITS)}")
    if not isinstance(data["source"], str):
        raise UserError(f"{origin}: data.source is {show(data['source'])}; expected a text")
    for key, kind, words in (("n", int, "whole number"), *((key, str, "text") for key in DATA_TEXTS)):
        if data.get(key) is not None and not isinstance(data[key], kind):
            raise UserError(f"{origin}: data.{key} is {show(data[key])}; expected a {words}")


def _check_baselines(origin: str, baselines) -> None:
    if not isinstance(baselines or {}, dict) or not all(isinstance(each, dict) for each in (baselines or {}).values()):
        raise UserError(f"{origin}: baselines is {show(baselines)}; expected a mapping of mappings")
    for name, metrics in (baselines or {}).items():
        _check_figures(origin, f"baselines.{name}", metrics)


def _check_figures(origin: str, where: str, metrics: dict) -> None:
    for name, figure in metrics.items():
        if not isinstance(figure, dict) or not all(
            is_finite(figure.get(key)) or (figure.get(key) is None and key != "value")
            for key in ("value", "low", "high", "n")
        ):
            raise UserError(f"{origin}: {where}.{name} is {show(figure)}; expected numbers as value, low, high and n")


def _sanitise(value):
    """Return plain data with `sanitise` texts, keys included."""
    if isinstance(value, str):
        return sanitise(value)
    if isinstance(value, dict):
        return {sanitise(str(key)): _sanitise(each) for key, each in value.items()}
    return [_sanitise(each) for each in value] if isinstance(value, list) else value


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if name in FILES)
    elif not path.exists():
        raise UserError(
            f"{path}: no such file or folder{nearest_path(str(path))}; expected eval_<split>.json, or a folder with such files"
        )
    elif path.name not in FILES:
        raise UserError(f"{path}: expected a file named {', '.join(FILES)}, or a folder with such files")
    else:
        yield path


def _unique(files: Iterable[Path]) -> list[Path]:
    """Return each file once, however many of the paths lead to it."""
    return list({file.resolve(): file for file in files}.values())


def read_hub(name: str, split: str | None = None) -> Found:
    """Read the evaluation results in the cards of all models of an author or, if there is no such author, with a tag.

    Args:
        name: an author (user or organisation), or a tag such as empathy-trl.
        split: train, valid or test; None reads all.

    Raises:
        UserError: the Hub cannot be reached or refuses, no model has this author or tag, or none has results.
    """
    found, without = Found(), 0
    with hub_requests(f"--hub {name}", "Folders with eval_<split>.json can be given instead"):
        ids, meaning = _models(name)
        with Progress("cards", len(ids), "model") as bar:
            for id_ in ids:
                known = len(found.problems)
                entries = _entries(id_, found.problems)
                without += not entries and len(found.problems) == known
                found.entries += [entry for entry in entries if split in (None, entry.evaluation["data"]["split"])]
                bar.update()
    if not ids:
        raise UserError(
            f"--hub {name}: no model on the Hub has this author or tag; if they are private, run `hf auth login`"
        )
    if not found.entries:
        lacking = f"none with evaluation results{f' of split {split}' if split else ''} as empathy-trl writes them"
        raise UserError("\n".join([f"--hub {name}: {len(ids)} model(s) {meaning}, and {lacking}", *found.problems]))
    if without:
        found.problems.append(f"{without} of {len(ids)} models {meaning}: no evaluation results in the card")
    return found


def _models(name: str) -> tuple[list[str], str]:
    """Return the sorted ids of the models of an author or, where there are none, with a tag; and which of the two."""
    for search, meaning in (({"author": name}, f"of author {name}"), ({"filter": name}, f"with tag {name}")):
        models = retry(lambda search=search: list(HfApi().list_models(**search)), "models")
        if models:
            return sorted(model.id for model in models), meaning
    return [], ""


def _entries(id_: str, problems: list[str]) -> list[Entry]:
    """Return the evaluations in a model's card; a card that cannot be read adds to `problems`, a card without results does not."""
    try:
        path = hf_hub_download(id_, "README.md")
    except RemoteEntryNotFoundError:  # no card
        return []
    except (EntryNotFoundError, HfHubHTTPError) as error:
        cause = _cause(error)
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if status not in (401, 403, 404):
            raise cause from error
        problems.append(f"{id_}: you may not see its card (HTTP {status})")  # the others still count
        return []
    try:
        results = ModelCard.load(path).data.eval_results or []
        return [make_entry(evaluation, id_) for evaluation in from_results(results, id_)]
    except (ValueError, KeyError, TypeError, AttributeError, YAMLError) as error:  # a card may hold anything
        problems.append(mask(f"{id_}: its card cannot be read: {' '.join(sanitise(str(error)).split())[:300]}"))
        return []


def _cause(error: Exception) -> Exception:
    """Return why a download failed, which huggingface_hub reports as a file that is not in the cache."""
    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """One published result; the fields are those of `published.yaml`."""

    name: str
    kind: str
    data: str
    measured_on: str
    split: str
    n: int | None
    rows: str | None
    metrics: dict[str, float]
    metrics_version: int | None
    measured: bool
    note: str | None
    source: str
    url: str | None

    def why_apart(self, facts: dict) -> list[str]:
        """Return why the figure cannot be in the table of evaluations with these facts (`ranking.facts_of`); empty if it can."""
        reasons = []
        if not self.measured:
            reasons.append("expected by its source and not measured")
        if self.metrics_version is None:
            reasons.append("defined in another way")
        elif self.metrics_version != facts["metrics_version"]:
            reasons.append(f"defined as in metrics version {self.metrics_version}")
        if self.rows is None or self.rows != facts["rows"]:
            reasons.append(f"other rows: {self.measured_on}, {self.split} split")
        return reasons

    @property
    def citation(self) -> str:
        """The source, and the note if there is one."""
        return f"{self.source}; {self.note}" if self.note else self.source


def read_published(path: Path = FILE) -> list[Published]:
    """Read published figures; UserError names an entry with a missing or unknown field."""
    names = {field.name for field in fields(Published)}
    found = []
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), start=1):
        if not isinstance(entry, dict) or entry.keys() != names:
            wrong = ", ".join(sorted(map(str, names ^ set(entry)))) if isinstance(entry, dict) else "no mapping"
            raise UserError(f"{path}, entry {number}: missing or unknown: {wrong}; expected {', '.join(sorted(names))}")
        found.append(Published(**entry))
    return found

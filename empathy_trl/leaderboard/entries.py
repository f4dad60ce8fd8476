"""The evaluations of a leaderboard, read from files: which there are, and which could not be read."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.evaluation.compare import check_evaluation
from empathy_trl.evaluation.evaluate import kind_module
from empathy_trl.files import read_json
from empathy_trl.model_card.results import is_finite
from empathy_trl.printable import printable

SPLITS = ("train", "valid", "test")
OF_DATA = ("name", "revision", "rows", "decoding")  # keys of data that are texts or null
LARGEST = 1e12  # no metric of ours comes near it; a number of 300 digits would push all else off the page
FILES = {f"eval_{split}.json": split for split in SPLITS}


@dataclass
class Entry:
    """One evaluation.

    Attributes:
        evaluation: what `eval_<split>.json` holds, or as much of it as a model card does.
        origin: the file, or the id on the Hub; for messages only.
        folder: where `predictions_<split>.jsonl` may lie; None for a card.
    """

    evaluation: dict
    origin: str
    folder: Path | None = None

    @property
    def kind(self):
        """The module that knows how it was evaluated."""
        return kind_module(self.evaluation["kind"])

    @property
    def main(self) -> dict:
        """The figure that decides the rank."""
        return self.evaluation["metrics"][self.kind.MAIN]


@dataclass
class Found:
    """What was read: the evaluations, and a line for each that could not be."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_paths(paths: list[str | Path], split: str | None = None) -> Found:
    """Read all `eval_<split>.json` files among and below some paths, each once.

    Args:
        paths: files, or folders of any depth; hidden folders and links to folders are not entered.
        split: train, valid or test; None reads all.

    Raises:
        UserError: a path does not exist or is no such file, or there is nothing to read.
    """
    files = _unique(file for path in paths for file in _files(Path(path).expanduser()))
    files = [file for file in files if split in (None, FILES[file.name])]
    where, wanted = ", ".join(map(str, paths)), f"eval_{split}.json" if split else "eval_test.json or another split's"
    if not files:
        raise UserError(
            f"{where}: no results; looked for {wanted}, there and in all folders below. recipes/run.py and "
            "recipes/evaluate.py write them"
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
    """Return an evaluation that a leaderboard can show; of its texts, what would play tricks on a screen is gone.

    Raises:
        UserError: it is none, or lacks something; the message names origin, key and value.
    """
    # a card has a digest in place of the rewards
    of_card = isinstance(evaluation, dict) and isinstance(evaluation.get("judged_by"), str)
    check_evaluation(origin, evaluation | {"judged_by": {}} if of_card else evaluation)
    main = kind_module(evaluation["kind"]).MAIN
    if main not in evaluation["metrics"]:
        raise UserError(f"{origin}: metrics has no {main}, by which evaluations of {evaluation['kind']} are ranked")
    _check_data(origin, evaluation["data"])
    _check_figures(origin, "metrics", evaluation["metrics"])
    _check_baselines(origin, evaluation.get("baselines"))
    return Entry(_printable(evaluation), origin, folder)


def _check_data(origin: str, data: dict) -> None:
    if data["split"] not in SPLITS:
        raise UserError(f"{origin}: data.split is {str(data['split'])[:60]!r}; expected {', '.join(SPLITS)}")
    if not isinstance(data["source"], str):
        raise UserError(f"{origin}: data.source is {str(data['source'])[:60]!r}; expected a text")
    for key, kind, words in (("n", int, "whole number"), *((key, str, "text") for key in OF_DATA)):
        if data.get(key) is not None and not isinstance(data[key], kind):
            raise UserError(f"{origin}: data.{key} is {str(data[key])[:60]!r}; expected a {words}")


def _check_baselines(origin: str, baselines) -> None:
    if not isinstance(baselines or {}, dict) or not all(isinstance(each, dict) for each in (baselines or {}).values()):
        raise UserError(f"{origin}: baselines is {str(baselines)[:60]}; expected a mapping of mappings")
    for name, metrics in (baselines or {}).items():
        _check_figures(origin, f"baselines.{name}", metrics)


def _check_figures(origin: str, where: str, metrics: dict) -> None:
    for name, figure in metrics.items():
        if not isinstance(figure, dict) or not all(
            _is_number(figure.get(key), key != "value") for key in ("value", "low", "high", "n")
        ):
            raise UserError(
                f"{origin}: {where}.{name} is {str(figure)[:60]}; expected numbers as value, low, high and n"
            )


def _is_number(value, may_lack: bool) -> bool:
    if value is None:
        return may_lack
    return is_finite(value) and abs(value) < LARGEST


def _printable(value):
    """Return plain data with `printable` texts, keys included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list) else value


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if name in FILES)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder; expected eval_<split>.json, or a folder with such files")
    elif path.name not in FILES:
        raise UserError(f"{path}: expected a file named {', '.join(FILES)}, or a folder with such files")
    else:
        yield path


def _unique(files: Iterable[Path]) -> list[Path]:
    """Return each file once, however many of the paths lead to it."""
    return list({file.resolve(): file for file in files}.values())

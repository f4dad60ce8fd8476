"""The results of a leaderboard, from `eval_<split>.json`, model cards, `.eval_results/*.yaml` and `published.yaml`.

Each unreadable source is reported in one line, and the others still count. The results of one stage over several seeds are one entry.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, HfApi, ModelCard, hf_hub_download
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
from empathy_trl.evaluation.compare import (
    check_all_rows,
    check_evaluation,
    is_seed,
    read_seeds,
    seed_folder,
    seed_folders,
    without_seed,
)
from empathy_trl.evaluation.metrics.reply_classifiers import digests
from empathy_trl.evaluation.seeds import pooled, pooled_baselines
from empathy_trl.hub.pull import hub_requests, retry
from empathy_trl.hub.results import ENTRIES_FOLDER, from_results, is_finite, judge_digest, read_entries
from empathy_trl.io import digest, json_or_none, nearest_path, read_json, user_path
from empathy_trl.recipe.load import PULL_FILE
from empathy_trl.text import mask, sanitise

SPLITS = ("train", "valid", "test")
DATA_TEXTS = ("name", "revision", "rows", "decoding")  # keys of `data` that are texts or null
FILES = {f"eval_{split}.json": split for split in SPLITS}
CARD = "README.md"


@dataclass
class Entry:
    """One evaluation.

    Attributes:
        evaluation: what `eval_<split>.json` holds, or as much of it as a model card does.
        origin: the file, or the id on the Hub, for messages.
        folder: the folder that may hold `predictions_<split>.jsonl`; None for a card.
        seeds: seed -> such a folder, if the entry is the mean over several seeds; `folder` is then the first.
    """

    evaluation: dict
    origin: str
    folder: Path | None = None
    seeds: dict[int, Path] = field(default_factory=dict)

    @property
    def folders(self) -> dict[int | None, Path | None]:
        """Seed -> folder of its result; the key of a single result is None."""
        return self.seeds or {None: self.folder}

    @property
    def evaluator(self):
        """The evaluator that knows how it was evaluated."""
        return evaluator(self.evaluation["kind"])

    @property
    def main(self) -> dict:
        """The figure that decides the rank."""
        return self.evaluation["metrics"][self.evaluator.main_metric]


@dataclass
class Stated:
    """A value in `.eval_results/` of a model: what a benchmark asks for, without an interval.

    Attributes:
        model: what the evaluations of the same folder or repository call it.
        result: the entry.
    """

    model: str
    result: EvalResultEntry

    def repeats(self, entry: Entry) -> bool:
        """Say whether an evaluation of the same model has this value."""
        figure = entry.evaluation["metrics"].get(self.result.task_id)
        is_same_data = entry.evaluation["data"]["source"] == self.result.dataset_id
        return is_same_data and figure is not None and math.isclose(figure["value"], self.result.value)


@dataclass
class Found:
    """The results that were read, a line for each that could not be read, and one for each run whose seeds are not pooled."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    stated: list[Stated] = field(default_factory=list)
    unpooled: list[str] = field(default_factory=list)

    def add_stated(self, path: Path, origin: str, model: str, entries: list[Entry]) -> None:
        """Read a file of `.eval_results/`; values that one of the model's evaluations has are left out."""
        results, problems = read_entries(path, origin)
        stated = [Stated(model, result) for result in results]
        self.stated += [each for each in stated if not any(each.repeats(entry) for entry in entries)]
        self.problems += map(sanitise, problems)


def read_paths(paths: list[str | Path], split: str | None = None) -> Found:
    """Read the results among and below some paths, each once.

    In each folder, these are `eval_<split>.json` or, without these files, the results in a model card; and
    `.eval_results/*.yaml`.

    Args:
        paths: files `eval_<split>.json`, or folders of any depth; hidden folders and links to folders are not entered.
        split: train, valid or test; None reads all. A value in `.eval_results/` names no split and is read with None alone.

    Raises:
        UserError: a path does not exist or is another file, or there is nothing to read.
    """
    files = _unique(file for path in paths for file in _files(user_path(path)))
    where, wanted = ", ".join(map(str, paths)), f"eval_{split}.json" if split else "eval_test.json or another split's"
    found = Found()
    for file in (file for file in files if file.name in FILES and split in (None, FILES[file.name])):
        try:
            found.entries.append(make_entry(read_json(file), str(file), file.parent))
        except (UserError, OSError) as error:
            found.problems.append(str(error))
    evaluated = {file.parent for file in files if file.name in FILES}
    for file in (file for file in files if file.name == CARD and file.parent not in evaluated and _has_index(file)):
        found.entries += _of_split(_in_card(file, str(file), _model_in(file.parent), found.problems), split)
    for file in (file for file in files if file.parent.name == ENTRIES_FOLDER and split is None):
        folder = file.parent.parent
        there = [entry for entry in found.entries if Path(entry.origin).parent == folder]
        found.add_stated(file, str(file), _model_in(folder), there)
    if not (found.entries or found.stated or found.problems):
        raise UserError(
            f"{where}: no results; looked for {wanted}, there and in all folders below. empathy-trl run and "
            "empathy-trl evaluate write them"
        )
    if not (found.entries or found.stated):
        raise UserError(f"{where}: no results that can be read:\n" + "\n".join(found.problems))
    _pool_seeds(found)
    return found


def _pool_seeds(found: Found) -> None:
    """Put one entry in place of those of every seed of a stage; what cannot be pooled stays, and `unpooled` has the reason."""
    by_stage: dict[tuple, dict[int, Entry]] = {}
    for entry in found.entries:
        try:
            place = entry.folder and _place(entry.folder)
        except UserError as error:
            found.unpooled.append(f"the seeds are shown one by one: {error}")
            continue
        if place:
            run, seed, stage = place
            by_stage.setdefault((run, stage, entry.evaluation["data"]["split"]), {})[seed] = entry
    instead: dict[int, Entry] = {}  # id of an entry -> the one that stands for it
    for (run, stage, split), entries in by_stage.items():
        if len(entries) > 1:
            try:
                pooled_entry = _pooled(run, stage, split, dict(sorted(entries.items())))
            except UserError as error:
                found.unpooled.append(f"{run / stage}: the seeds are shown one by one: {error}")
            else:
                instead |= {id(entry): pooled_entry for entry in entries.values()}
    kept = {id(entry): entry for entry in (instead.get(id(entry), entry) for entry in found.entries)}
    found.entries = list(kept.values())
    found.unpooled = list(dict.fromkeys(found.unpooled))  # a broken seeds.json concerns every entry


def _place(folder: Path) -> tuple[Path, int, Path] | None:
    """Return run, seed and stage of a result in `<run>/seed_<seed>/<stage>`; None for any other, and a seed that does not count.

    Raises:
        UserError: `seeds.json`, which says which seeds count, is broken.
    """
    for run in folder.parents:
        first, *rest = folder.relative_to(run).parts
        if is_seed(first) and rest:
            seed = int(first.removeprefix("seed_"))
            return (run, seed, Path(*rest)) if seed in seed_folders(run) else None
    return None


def _pooled(run: Path, stage: Path, split: str, entries: dict[int, Entry]) -> Entry:
    """Return the mean over the seeds of one stage as an entry.

    Raises:
        UserError: they have other settings, rows, decoding or definitions of metrics, or predictions are missing.
    """
    results = read_seeds({seed: seed_folder(run, seed) for seed in entries}, stage, split)
    check_all_rows([*results.values()])
    first, *others = (entry.evaluation for entry in entries.values())
    for key in ("name", "rows", "decoding"):
        values = {re.sub(r", seed \d+$", "", str(each["data"].get(key))) for each in (first, *others)}
        if len(values) > 1:
            raise UserError(f"data.{key} differs: {', '.join(sorted(values))}")
    if any(each.get("metrics_version") != first.get("metrics_version") for each in others):
        raise UserError("metrics_version differs; evaluate the models again")
    judges = [judge_digest(each.get("judged_by")) for each in (first, *others)]
    classifiers = [digests(each) for each in (first, *others)]
    figures = {name: each for name, each in pooled(results).items() if each["value"] is not None}
    changes = {
        "model": without_seed(first["model"]),
        "metrics": _sanitise(figures),
        "baselines": _sanitise(pooled_baselines(results)),
        "seeds": list(entries),
    }
    if len(set(judges)) > 1:  # each seed has a reward model of its own
        changes["judged_by"] = digest(judges)
    if any(each != classifiers[0] for each in classifiers):
        changes["classifiers"] = {kind: digest([each.get(kind) for each in classifiers]) for kind in classifiers[0]}
    folders = {seed: entry.folder for seed, entry in entries.items()}
    return Entry(first | changes, str(run / stage), next(iter(folders.values())), folders)


def _of_split(entries: list[Entry], split: str | None) -> list[Entry]:
    return [entry for entry in entries if split in (None, entry.evaluation["data"]["split"])]


def _has_index(card: Path) -> bool:
    """Say whether a README.md may be a model card with results; others need not be valid cards."""
    content = card.read_text(encoding="utf-8", errors="replace")
    return content.startswith("---") and "model-index:" in content


def _model_in(folder: Path) -> str:
    """Return the name of the model in a folder: the id of the repository that it was pulled from, or else the folder."""
    return str((json_or_none(folder / PULL_FILE) or {}).get("repo_id", folder))


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
            if ENTRIES_FOLDER in folders:
                yield from sorted(Path(folder, ENTRIES_FOLDER).glob("*.yaml"))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if name in FILES or name == CARD)
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
    """Read the evaluation results of all models of an author or, if there is no such author, with a tag.

    These are the results in the model's card and in its `.eval_results/*.yaml`.

    Args:
        name: an author (user or organisation), or a tag such as empathy-trl.
        split: as in `read_paths`.

    Raises:
        UserError: the Hub cannot be reached or refuses, no model has this author or tag, or none has results.
    """
    found, without = Found(), 0
    with hub_requests(f"--hub {name}", "Folders with eval_<split>.json can be given instead"):
        models, meaning = _models(name)
        with Progress("results", len(models), "model") as bar:
            for id_, files in models.items():
                known = len(found.stated) + len(found.problems)
                card = _download(id_, CARD, found.problems) if CARD in files else None
                entries = _in_card(card, id_, id_, found.problems) if card else []
                for file in (file for file in files if Path(file).match(f"{ENTRIES_FOLDER}/*.yaml") and split is None):
                    if path := _download(id_, file, found.problems):
                        found.add_stated(path, f"{id_}/{file}", id_, entries)
                without += not entries and len(found.stated) + len(found.problems) == known
                found.entries += _of_split(entries, split)
                bar.update()
    if not models:
        raise UserError(
            f"--hub {name}: no model on the Hub has this author or tag; if they are private, run `hf auth login`"
        )
    if not (found.entries or found.stated):
        lacking = f"none with evaluation results{f' of split {split}' if split else ''} as empathy-trl writes them"
        raise UserError("\n".join([f"--hub {name}: {len(models)} model(s) {meaning}, and {lacking}", *found.problems]))
    if without:
        found.problems.append(f"{without} of {len(models)} models {meaning}: no evaluation results")
    return found


def _models(name: str) -> tuple[dict[str, list[str]], str]:
    """Return id -> files of the models of an author or, where there are none, with a tag; and which of the two."""
    for search, meaning in (({"author": name}, f"of author {name}"), ({"filter": name}, f"with tag {name}")):
        models = retry(lambda search=search: list(HfApi().list_models(**search, full=True)), "models")
        if models:
            files = {model.id: sorted(each.rfilename for each in model.siblings or ()) for model in models}
            return dict(sorted(files.items())), meaning
    return {}, ""


def _download(id_: str, name: str, problems: list[str]) -> Path | None:
    """Return a file of a model; None and a line in `problems` if it may not be seen."""
    try:
        return Path(hf_hub_download(id_, name))
    except RemoteEntryNotFoundError:  # deleted since the listing
        return None
    except (EntryNotFoundError, HfHubHTTPError) as error:
        cause = _cause(error)
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if status not in (401, 403, 404):
            raise cause from error
        problems.append(f"{id_}: you may not see its {name} (HTTP {status})")  # the others still count
        return None


def _in_card(card: Path, origin: str, model: str, problems: list[str]) -> list[Entry]:
    """Return the evaluations in a model's card; a card that cannot be read adds to `problems`, a card without results does not."""
    try:
        results = ModelCard.load(card).data.eval_results or []
        return [make_entry(evaluation, origin) for evaluation in from_results(results, model)]
    except (ValueError, KeyError, TypeError, AttributeError, YAMLError) as error:  # a card may hold anything
        problems.append(mask(f"{origin}: its card cannot be read: {' '.join(sanitise(str(error)).split())[:300]}"))
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

"""Comparison of two results on the same rows: changes of metrics, intervals and p-values, as a page and a plot.

A comparison needs only the files of two evaluations. Rows are resampled for both results at once, which removes the
difficulty of the rows from the change (`metrics.bootstrap`). The metric of a resample is computed from the predictions.
It is used only if the predictions of all rows reproduce the value that the evaluation reports.

Either side may be several results, one per seed of a run with `--seeds` (`Results`). Seeds are then drawn again, too, for both
sides at once if they are the same.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from empathy_trl.errors import UserError, show, suggestion
from empathy_trl.evaluation import EVALUATORS, evaluator
from empathy_trl.evaluation.base import eval_path, markdown, predictions_path, read_eval, read_predictions
from empathy_trl.evaluation.metrics.bootstrap import over_seeds, paired_jackknife, paired_statistics
from empathy_trl.evaluation.metrics.reply_classifiers import are_classifiers, deciding, judged_otherwise
from empathy_trl.evaluation.plots import draw_changes
from empathy_trl.io import hold_folder, read_json, user_path, write_text
from empathy_trl.recipe.layers import RECIPE_FILE, read_yaml
from empathy_trl.text import in_markdown

SEEDS_FILE = "seeds.json"  # in the folder of a run with several seeds, beside the folders seed_1, seed_2 …
NOT_IN_ROWS = "the predictions file does not hold what it is made of"
OTHER_REWARD = "the two results were judged by different rewards, or with different weights"


@dataclass
class Result:
    """What the artefacts of one evaluation say; `rows` are in the order of their index."""

    folder: Path
    evaluation: dict
    rows: list[dict]

    @property
    def evaluator(self):
        """The evaluator that knows how it was evaluated."""
        return evaluator(self.evaluation["kind"])

    def values(self) -> dict[str, list]:
        """Metric -> one number per row, None where it does not apply."""
        found = self._made_by(self.evaluator.row_values)
        for name, values in found.items():
            for row, value in zip(self.rows, values, strict=True):
                if not (value is None or isinstance(value, (int, float))):
                    raise UserError(f"{self.folder}: the row with index {row['index']} has {show(value)} as {name}")
        return found

    def statistics(self) -> dict[str, tuple]:
        """How to resample -> names of metrics, and a function from row numbers to them."""
        return self._made_by(self.evaluator.statistics)

    def _made_by(self, function: Callable) -> dict:
        """Return what a kind makes of its own  UserError where these are not as it writes them."""
        try:
            return function(self.evaluation, self.rows)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{self.folder}: its files are not as an evaluation of {self.evaluation['kind']} writes them "
                f"({type(error).__name__}: {error}); evaluate the model again"
            ) from error

    def reports(self, name: str, value: float) -> bool:
        """Whether the evaluation reports this value of a metric, up to rounding."""
        return math.isclose(self.evaluation["metrics"][name]["value"], value, rel_tol=1e-6, abs_tol=1e-9)


Results = dict[int | None, Result]  # seed -> its result; the key of a single result is None


def write_comparison(a: str | Path, b: str | Path, split: str, output_dir: str | Path) -> Path:
    """Write `compare.json`, `compare.png` and `compare.md`, and return the path of the last.

    Args:
        a, b, split: as for `compare`.
        output_dir: made when missing.

    Raises:
        UserError: an artefact is missing or broken, or the two are of different kinds, rows or references.
    """
    content = compare(a, b, split)
    folder = user_path(output_dir)
    with hold_folder(folder):
        write_text(folder / "compare.json", json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        draw_changes(
            folder / "compare.png",
            content["metrics"],
            "\nagainst ".join(f"{content[side]['model'][-60:]}{_seeds(content[side])}" for side in ("b", "a")),
        )
        return write_text(folder / "compare.md", page(content))


def read_result(folder: Path, split: str) -> Result:
    """Read the artefacts of an evaluation. UserError names the file that is missing, broken or something else."""
    evaluation, rows = read_eval(folder, split), read_predictions(folder, split)
    check_evaluation(eval_path(folder, split), evaluation)
    path, gold = predictions_path(folder, split), evaluator(evaluation["kind"]).reference_column
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not {"index", "text", gold} <= row.keys():
            raise UserError(f"{path}, row {number}: expected an object with index, text and {gold}")
        if type(row["index"]) is not int:
            raise UserError(f"{path}, row {number}: index is {show(row['index'])}; expected a whole number")
    if not rows or len({row["index"] for row in rows}) < len(rows):
        raise UserError(f"{path}: expected rows with distinct indices")
    return Result(folder, evaluation, sorted(rows, key=lambda row: row["index"]))


def read_results(folder: Path, split: str) -> Results:
    """Read the result in a folder, or those of every seed.

    Args:
        folder: with `eval_<split>.json`; the folder of a run with several seeds, for the last stage of each; or of a stage of such a
            run, as if it lay in that folder: outputs/ed4_tiny/sft reads outputs/ed4_tiny/seed_1/sft and so on.
        split: train, valid or test.

    Raises:
        UserError: as `read_result`; also if the runs of the seeds have other settings (names files, key and values).
    """
    if not eval_path(folder, split).is_file():
        for run in (folder, *folder.parents[:2]):  # also of <stage>/untrained
            inner = folder.relative_to(run)
            if not any(map(is_seed, inner.parts[:1])) and (seeds := seed_folders(run)):
                return read_seeds(seeds, inner if inner.parts else Path(_last_stage(seeds)), split)
    return {None: read_result(folder, split)}


def read_seeds(seeds: dict[int, Path], stage: Path, split: str) -> Results:
    """Read the results of one stage of every seed.

    Args:
        seeds: seed -> the folder of its run.
        stage: the stage's folder in each of them, such as sft or sft/untrained.
        split: train, valid or test.

    Raises:
        UserError: as `read_results`.
    """
    _check_settings(seeds, stage.parts[0])
    return {seed: read_result(each / stage, split) for seed, each in seeds.items()}


def seed_folders(run: Path) -> dict[int, Path]:
    """Return seed -> the folder of its run, for those that `seeds.json` in a folder names, or for all if there is no such file.

    Raises:
        UserError: the file is broken, so that nobody knows which seeds count.
    """
    path = run / SEEDS_FILE
    if not path.is_file():
        found = {int(each.name.removeprefix("seed_")) for each in run.glob("seed_*") if is_seed(each.name)}
        return {seed: seed_folder(run, seed) for seed in sorted(found)}
    content = read_json(path)
    seeds = content.get("seeds") if isinstance(content, dict) else None
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
        raise UserError(
            f"{path}: seeds is {show(seeds)}; expected a list of whole numbers. The run command with --seeds writes the file again"
        )
    return {seed: seed_folder(run, seed) for seed in seeds}


def seed_folder(run: Path, seed: int) -> Path:
    """Return the folder of one seed of a run with several."""
    return run / f"seed_{seed}"


def is_seed(name: str) -> bool:
    """Whether a folder is called as that of one seed of several."""
    return re.fullmatch(r"seed_\d+", name) is not None


def _last_stage(seeds: dict[int, Path]) -> str:
    """Return the last stage of a run with several seeds."""
    return list(recorded_stages(next(iter(seeds.values()))))[-1]


def recorded_stages(folder: Path, needed: str | None = None) -> dict[str, dict]:
    """Return stage -> its settings, of `recipe.yaml` in a folder. UserError names a file that is missing, broken or lacks a stage."""
    path = folder / RECIPE_FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; the run of this seed is not complete, and the same command continues it"
        )
    stages = read_yaml(path).get("stages")
    if not (isinstance(stages, dict) and stages and all(isinstance(each, dict) for each in stages.values())):
        raise UserError(f"{path}: stages is {show(stages)}; expected a mapping of stages to their settings")
    if needed is not None and needed not in stages:
        raise UserError(f"{path}: has no stage {needed}{suggestion(needed, stages, 'stages')}")
    return stages


def _check_settings(seeds: dict[int, Path], stage: str) -> None:
    """Raise UserError unless a stage and those before it were trained with the same settings, apart from the seed."""
    found = {}
    for folder in seeds.values():
        if (folder / stage / RECIPE_FILE).is_file():  # not the folders of evaluations
            found[folder] = dict(_settings(folder, stage))
    for folder, settings in list(found.items())[1:]:
        (first, expected), *_ = found.items()
        for key in settings | expected:
            if settings.get(key) != expected.get(key):
                files = " and ".join(str(each / key[0] / RECIPE_FILE) for each in (first, folder))
                raise UserError(
                    f"{files} have different settings: stages.{'.'.join(key)} is {show(expected.get(key))} and "
                    f"{show(settings.get(key))}; expected the same apart from the seed. Run the seeds again with one command"
                )


def _settings(run: Path, last: str) -> Iterator[tuple[tuple, object]]:
    """Yield key and value of everything but the seed that decides the weights of the stages up to the last in a run."""
    for stage in recorded_stages(run / last, last):
        sections = recorded_stages(run / stage, stage)[stage]
        for key, value in sections.items():
            if key not in ("seed", "evaluation", "hub"):
                yield from _leaves((stage, key), value)
        if stage == last:
            return


def _leaves(path: tuple, value) -> Iterator[tuple[tuple, object]]:
    if not isinstance(value, dict) or not value:
        yield path, without_seed(value) if isinstance(value, str) else value  # a model of the same seed of another run
        return
    for key, each in value.items():
        yield from _leaves((*path, str(key)), each)


def check_evaluation(path: Path | str, evaluation) -> None:
    """Raise UserError, which names key and value, unless the parts that every kind has are what they should be."""
    needed = ("kind", "model", "recipe", "stage", "data", "metrics")
    if not isinstance(evaluation, dict) or not set(needed) <= evaluation.keys() or evaluation["kind"] not in EVALUATORS:
        raise UserError(
            f"{path}: is not an evaluation; expected {', '.join(needed)}, and as kind one of {', '.join(EVALUATORS)}"
        )
    data, metrics, judged_by = evaluation["data"], evaluation["metrics"], evaluation.get("judged_by", {})
    wrong = [(key, evaluation[key], "a text") for key in ("model", "recipe", "stage") if not _is(str, evaluation[key])]
    if not (_is(dict, data) and {"source", "split"} <= data.keys()):
        wrong.append(("data", data, "a mapping with source and split"))
    if not (_is(dict, judged_by) and all(_is(dict, reward) for reward in judged_by.values())):
        wrong.append(("judged_by", judged_by, "a mapping of mappings"))
    if not are_classifiers(classifiers := evaluation.get("classifiers") or {}):
        wrong.append(("classifiers", classifiers, "a mapping of mappings, each with weights"))
    if not (_is(dict, metrics) and metrics):
        wrong.append(("metrics", metrics, "a mapping of metrics, at least one"))
    else:
        figures = {f"metrics.{name}": each for name, each in metrics.items()}
        wrong += [
            (key, each, "a mapping with a number as value")
            for key, each in figures.items()
            if not (_is(dict, each) and _is((int, float), each.get("value")))
        ]
    for key, value, expected in wrong:
        raise UserError(f"{path}: {key} is {show(value)}; expected {expected}")


def _is(kind, value) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def check_same_rows(a: Result, b: Result) -> None:
    """Raise UserError, which names what differs, unless both results are of one kind and on the same rows."""
    kinds = a.evaluation["kind"], b.evaluation["kind"]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{a.folder} is an evaluation of {kinds[0]}, {b.folder} one of {kinds[1]}; expected the same kind"
        )
    left, right = ([row["index"] for row in result.rows] for result in (a, b))
    if left != right:
        lacking, missing = (b, set(left) - set(right)) if set(left) - set(right) else (a, set(right) - set(left))
        raise UserError(
            f"{a.folder} has {len(left)} rows, {b.folder} has {len(right)}, and {lacking.folder} lacks {len(missing)} of the "
            f"other's, such as index {min(missing)}; evaluate both on the same rows (--limit, --data.path)"
        )
    for key in ("text", a.evaluator.reference_column):
        for one, other in zip(a.rows, b.rows, strict=True):
            if one[key] != other[key]:
                raise UserError(
                    f"the row with index {one['index']} has the {key} {show(one[key])} in {a.folder}, {show(other[key])} in "
                    f"{b.folder}; evaluate both on the same data"
                )


def check_all_rows(results: list[Result]) -> None:
    """Raise UserError, as `check_same_rows` does, unless all results are on the rows of the first."""
    for result in results[1:]:
        check_same_rows(results[0], result)


def compare(a: str | Path, b: str | Path, split: str = "test") -> dict:
    """Return how every metric changed from one evaluation to another on the same rows.

    Args:
        a, b: folders with `eval_<split>.json` and `predictions_<split>.jsonl`, as `run_recipe` and `evaluate_model` write
            them; a change is that from a to b. Also the folder of a run with several seeds, such as outputs/ed4_tiny, for its
            last stage, or outputs/ed4_tiny/sft and outputs/ed4_tiny/sft/untrained for those of every seed.
        split: train, valid or test.

    Returns:
        What `compare_results` does: `result["metrics"]["accuracy"]` has `a`, `b`, `change`, and of the change `low` and
        `high` (95 % interval) and `p` (two-sided).

    Raises:
        UserError: an artefact is missing or broken, or the two are of different kinds, rows or references.
    """
    one, other = read_results(user_path(a), split), read_results(user_path(b), split)
    check_all_rows([*one.values(), *other.values()])
    return compare_results(one, other)


def compare_results(a: Results, b: Results, methods: Collection[str] = ("bootstrap", "jackknife")) -> dict:
    """Return the content of `compare.json`; `methods` says how metrics of all rows together are resampled.

    `{"a", "b": {"folder", "recipe", "stage", "model"}, "kind", "data", "metrics": {name: figure}}`. A figure is `{"a", "b",
    "change", "relative", "low", "high", "p", "n", "method", "note"}`: the change b - a with its 95 % interval and two-sided p,
    the same as a share of |a|, the number of rows, and how it was resampled. What there is not is null, and `note` says why.
    With several seeds, `a` and `b` also list their `seeds`; the values are means, and a figure has `by_seed`, `{"a": {seed: value},
    "b", "change"}`, and `sd`, the standard deviation of the change over the seeds, if both have the same ones.
    """
    first, second = next(iter(a.values())), next(iter(b.values()))
    tested = dict(_of_corpus(a, b, methods)) | dict(_of_rows(a, b))
    pairs = zip(a.values(), b.values(), strict=True) if a.keys() == b.keys() else product(a.values(), b.values())
    reasons = {}
    for one, other in pairs:
        reasons |= _other_rewards(one.evaluation, other.evaluation) | judged_otherwise(one.evaluation, other.evaluation)
    metrics = {}
    for name in first.evaluation["metrics"] | second.evaluation["metrics"]:
        given = [_mean(values) for values in (by_seed(a, name), by_seed(b, name))]
        if None in given:
            metrics[name] = _figure(*given, note=f"only {'B' if given[0] is None else 'A'} has it")
        elif name in reasons:
            metrics[name] = _figure(*given, note=reasons[name])
        else:
            metrics[name] = tested.get(name) or _figure(*given, given[1] - given[0], note=NOT_IN_ROWS)
        if len(a) + len(b) > 2:
            metrics[name] |= _of_seeds(by_seed(a, name), by_seed(b, name))
    about = {side: _described(results) for side, results in (("a", a), ("b", b))}
    return about | {"kind": first.evaluation["kind"], "data": second.evaluation["data"], "metrics": metrics}


def by_seed(results: Results, name: str) -> dict[int | None, float | None]:
    """Return seed -> the reported value of a metric, None where an evaluation does not have it."""
    return {seed: each.evaluation["metrics"].get(name, {}).get("value") for seed, each in results.items()}


def _mean(values: dict) -> float | None:
    return None if None in values.values() else sum(values.values()) / len(values)


def deviation(values: list[float]) -> float | None:
    """Return the standard deviation over seeds, of which there are to be at least two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _of_seeds(a: dict, b: dict) -> dict:
    """Return what the figure of a metric also has if there are several seeds."""
    change = {}
    if a.keys() == b.keys():
        change = {seed: b[seed] - a[seed] for seed in a if None not in (a[seed], b[seed])}
    return {"by_seed": {"a": a, "b": b, "change": change or None}, "sd": deviation([*change.values()])}


def _described(results: Results) -> dict:
    """Return what `compare.json` says of one side."""
    (seed, first), *others = results.items()
    about = {"folder": str(first.folder)} | {key: first.evaluation[key] for key in ("recipe", "stage", "model")}
    if seed is None:
        return about
    about |= {key: without_seed(about[key]) for key in ("folder", "model")}
    return about | {"seeds": [seed, *(each for each, _ in others)]}


def without_seed(path: str) -> str:
    """Return the path of a seed's stage, such as outputs/ed4_tiny/seed_1/sft, as that of the stage over all seeds."""
    return re.sub(r"(^|/)seed_\d+(?=/|$)", "", path)


def _of_rows(a: Results, b: Results) -> Iterator[tuple[str, dict]]:
    """Yield name and figure of the metrics that are means over rows, on the rows that have a value in all results."""
    left, right = row_means(a), row_means(b)
    for name in left.keys() & right.keys():
        there = ~np.isnan([*left[name], *right[name]]).any(axis=0)
        if not there.any():
            yield name, _figure(None, None, note="no row has a value in both")
            continue
        ones, others = left[name][:, there], right[name][:, there]
        fewer = any((~np.isnan(values)).sum() > there.sum() for values in (*left[name], *right[name]))
        note = f"on the {there.sum()} rows that have a value in both" if fewer else None
        test = paired_statistics(row_change(ones, others, a.keys() == b.keys()), int(there.sum()))[0]
        before, after = (_mean_of_means(values) for values in (ones, others))
        yield name, _tested(before, after, test, "bootstrap", note)


def _mean_of_means(values: np.ndarray) -> float:
    return sum(sum(each) / len(each) for each in values.tolist()) / len(values)


def row_means(results: Results) -> dict[str, np.ndarray]:
    """Return metric -> values per row, shape (seeds, rows), of the reported metrics that are their mean; NaN has no value."""
    values = [result.values() for result in results.values()]
    found = {}
    for name in values[0]:
        if all(name in each and _adds_up(result, name, each[name])
               for result, each in zip(results.values(), values, strict=True)):  # fmt: skip
            found[name] = np.array([each[name] for each in values], dtype=float)  # None becomes NaN
    return found


def _adds_up(result: Result, name: str, values: list) -> bool:
    """Whether the mean over the rows is what the evaluation reports."""
    there = [value for value in values if value is not None]
    return bool(there) and name in result.evaluation["metrics"] and result.reports(name, sum(there) / len(there))


def row_mean(values: np.ndarray) -> Callable:
    """Return a function from row numbers, shape (n,) or (resamples, n), to the mean of their values, (1,) or (resamples, 1)."""
    return lambda rows: values[rows].mean(axis=-1, keepdims=True)


def row_change(ones: np.ndarray, others: np.ndarray, same_seeds: bool) -> Callable:
    """Return a function from row numbers to the change of a mean over rows and seeds, for `paired_statistics`.

    Args:
        ones, others: values of A and of B, shape (seeds, rows).
        same_seeds: whether the seeds of both are the same, in the same order, and therefore drawn together.
    """
    if same_seeds:
        return over_seeds([row_mean(change) for change in others - ones])
    before, after = ([row_mean(each) for each in values] for values in (ones, others))
    return _minus(over_seeds(before, seed=1), over_seeds(after, seed=2))


def changes_of(method: str, ours: list[Callable], theirs: list[Callable], same_seeds: bool, n: int) -> list[dict]:
    """Test the changes of statistics from A to B, each given by one function per seed, from row numbers to the statistics."""
    if same_seeds:
        changes = [_minus(one, other) for one, other in zip(ours, theirs, strict=True)]
        return resample(method, over_seeds(changes), n, changes)
    return resample(method, _minus(over_seeds(ours, seed=1), over_seeds(theirs, seed=2)), n, ours, theirs)


def _minus(one: Callable, other: Callable) -> Callable:
    return lambda rows: other(rows) - one(rows)


def _of_corpus(a: Results, b: Results, methods: Collection[str]) -> Iterator[tuple[str, dict]]:
    """Yield name and figure of the metrics that are computed from all rows together."""
    left, right = corpus_statistics(a), corpus_statistics(b)
    same, n = a.keys() == b.keys(), len(next(iter(a.values())).rows)
    for method in left.keys() & right.keys() & set(methods):
        (before, ours), (after, theirs) = left[method], right[method]
        if shared := [name for name in before if name in after]:
            ours, theirs = (
                [_columns(function, [list(values).index(name) for name in shared]) for function in functions]
                for values, functions in ((before, ours), (after, theirs))
            )
            tests = changes_of(method, ours, theirs, same, n)
            for name, test in zip(shared, tests, strict=True):
                yield name, _tested(before[name], after[name], test, method)


def corpus_statistics(results: Results) -> dict[str, tuple[dict[str, float], list[Callable]]]:
    """Return how to resample -> mean over the seeds of every metric that is computed from all rows together, and one function
    per seed, from row numbers to these metrics in this order. Only those that reproduce all reported values are there."""
    every = [result.statistics() for result in results.values()]
    found = {}
    for method in every[0]:
        names = [list(each[method][0]) for each in every]
        rows = np.arange(len(next(iter(results.values())).rows))
        values = [dict(zip(each[method][0], each[method][1](rows), strict=True)) for each in every]
        shared = [
            name
            for name in names[0]
            if all(
                name in each and name in result.evaluation["metrics"] and result.reports(name, float(each[name]))
                for result, each in zip(results.values(), values, strict=True)
            )
        ]
        means = {name: sum(float(each[name]) for each in values) / len(values) for name in shared}
        places = [[own.index(name) for name in shared] for own in names]
        found[method] = means, [_columns(each[method][1], at) for each, at in zip(every, places, strict=True)]
    return found


def _columns(function: Callable, places: list[int]) -> Callable:
    return lambda rows: function(rows)[..., places]


def resample(method: str, statistic: Callable, n: int, *sides: list[Callable]) -> list[dict]:
    """Return `paired_statistics` or `paired_jackknife` of statistics.

    Args:
        method: bootstrap or jackknife.
        statistic: takes row numbers and is a mean over seeds.
        n: number of rows.
        sides: lists of functions, one per seed, whose means it is made of, for the variance over the seeds; for the jackknife.
    """
    if method == "bootstrap":
        return paired_statistics(statistic, n)
    rows, variance = np.arange(n), 0.0
    for functions in (each for each in sides if len(each) > 1):
        variance = variance + np.var([function(rows) for function in functions], axis=0, ddof=1) / len(functions)
    return paired_jackknife(statistic, n, variance)


def _tested(a: float, b: float, test: dict, method: str, note: str | None = None) -> dict:
    ends = {key: test[key] for key in ("low", "high", "p", "n")}
    return _figure(a, b, test["difference"], note=note) | ends | {"method": method}


def _figure(a: float | None, b: float | None, change: float | None = None, note: str | None = None) -> dict:
    relative = None if change is None or not a else change / abs(a)
    nothing = dict.fromkeys(("low", "high", "p", "n", "method"))
    return {"a": a, "b": b, "change": change, "relative": relative} | nothing | {"note": note}


def _other_rewards(a: dict, b: dict) -> dict[str, str]:
    """Return metric -> reason of the rewards that are not the same in both evaluations."""
    one, other = (deciding(each.get("judged_by") or {}) for each in (a, b))
    without_weight = lambda reward: {key: value for key, value in (reward or {}).items() if key != "weight"}
    names = [name for name in one | other if without_weight(one.get(name)) != without_weight(other.get(name))]
    reasons = {f"reward_{name}": OTHER_REWARD for name in names}
    return reasons | ({"reward": OTHER_REWARD} if one != other else {})


METHOD = (
    "Brackets: 95 % interval; p: two-sided. Both draw the rows again for A and B at once (paired bootstrap, 2000 draws; for "
    "counts of different n-grams the jackknife, because a bootstrap draws rows twice). With few rows, p is too small."
)
SEEDS_METHOD = (
    "Values are means over the seeds. The seeds are drawn again as well as the rows, so interval and p hold for a new seed and a "
    "new row. With few seeds whose changes differ much, the interval is too narrow and p is too small: read the values of the seeds."
)
APART = "A and B do not have the same seeds, so the seeds of each were drawn independently."


def page(content: dict) -> str:
    """Return the content of `compare.md`, from that of `compare.json` (see `compare_results`)."""
    metrics, seeds = content["metrics"], [content[side].get("seeds") for side in ("a", "b")]
    notes = list(dict.fromkeys(figure["note"] for figure in metrics.values() if figure["note"]))
    columns, explained = ["metric", "A", "B", "change, B - A", "relative", "p", "n"], [METHOD]
    if any(seeds):
        same = seeds[0] == seeds[1]
        columns += [f"change by seed ({', '.join(map(str, seeds[0]))})", "sd"] if same else []
        explained += [SEEDS_METHOD] if same else [SEEDS_METHOD, APART]
    rows = [columns]
    for name, figure in metrics.items():
        mark = f" ({notes.index(figure['note']) + 1})" if figure["note"] else ""
        rows.append([in_markdown(name) + mark, *_cells(figure), *(seed_cells(figure) if len(columns) > 7 else [])])
    data, tested = content["data"], sum(figure["p"] is not None for figure in metrics.values())
    parts = [
        f"# Comparison on {data['split']} of {in_markdown(data['source'])}",
        "\n".join(f"- {side.upper()}: {_about(content[side])}" for side in ("a", "b")),
        markdown(rows),
        *(f"({number}) {in_markdown(note)}" for number, note in enumerate(notes, start=1)),
        *explained,
        _several(tested),
        "![Relative changes with their intervals](compare.png)",
    ]
    return "\n\n".join(parts) + "\n"


def _cells(figure: dict) -> list[str]:
    """Return what the table says of one metric behind its name; "-" for what there is not."""
    interval = "" if figure["low"] is None else f" [{figure['low']:+.3f}, {figure['high']:+.3f}]"
    forms = {
        "a": lambda value: f"{value:.3f}",
        "b": lambda value: f"{value:.3f}",
        "change": lambda value: f"{value:+.3f}{interval}",
        "relative": lambda value: f"{value:+.1%}",
        "p": p_words,
        "n": str,
    }
    return ["-" if figure[key] is None else form(figure[key]) for key, form in forms.items()]


def p_words(p: float) -> str:
    """Return a p-value as a reader is shown it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seed_cells(figure: dict) -> list[str]:
    """Return the change of every seed and the standard deviation; "-" for what there is not."""
    changes = figure["by_seed"]["change"]
    listed = ", ".join(f"{change:+.3f}" for change in changes.values()) if changes else "-"
    return [listed, "-" if figure["sd"] is None else f"{figure['sd']:.3f}"]


def _about(side: dict) -> str:
    return in_markdown(f"{side['model']} ({side['recipe']} / {side['stage']}), {side['folder']}") + _seeds(side)


def _seeds(side: dict) -> str:
    return f", seeds {', '.join(map(str, side['seeds']))}" if "seeds" in side else ""


def _several(tested: int) -> str:
    """Return what to think of many p-values at once."""
    return (
        f"{tested} metrics were compared, and p is not corrected for that: if nothing had changed, about {0.05 * tested:.1f} of "
        f"them would still show p < 0.05. With a Bonferroni correction, significance needs p < {0.05 / max(1, tested):.2g}."
    )

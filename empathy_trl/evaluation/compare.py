"""Comparison of two results on the same rows: changes of metrics, intervals and p-values, as a page and a plot.

A comparison needs only the files of two evaluations. Rows are resampled for both results at once, which removes the
difficulty of the rows from the change (`metrics.bootstrap`). The metric of a resample is computed from the predictions.
It is used only if the predictions of all rows reproduce the value that the evaluation reports.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from empathy_trl.errors import UserError, show
from empathy_trl.evaluation import EVALUATORS, evaluator
from empathy_trl.evaluation.base import eval_path, markdown, predictions_path, read_eval, read_predictions
from empathy_trl.evaluation.metrics.bootstrap import paired_bootstrap, paired_jackknife, paired_statistics
from empathy_trl.evaluation.metrics.reply_classifiers import are_classifiers, deciding, judged_otherwise
from empathy_trl.evaluation.plots import draw_changes
from empathy_trl.io import hold_folder, user_path, write_text
from empathy_trl.text import in_markdown

RESAMPLING = {"bootstrap": paired_statistics, "jackknife": paired_jackknife}
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


def write_comparison(a: str | Path, b: str | Path, split: str, output_dir: str | Path) -> Path:
    """Write `compare.json`, `compare.png` and `compare.md`, and return the path of the last.

    Args:
        a, b: folders with `eval_<split>.json` and `predictions_<split>.jsonl`; a change is that from a to b.
        split: train, valid or test.
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
            f"{content['b']['model'][-60:]}\nagainst {content['a']['model'][-60:]}",
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


def compare(a: str | Path, b: str | Path, split: str = "test") -> dict:
    """Return how every metric changed from one evaluation to another on the same rows.

    Args:
        a, b: folders with `eval_<split>.json` and `predictions_<split>.jsonl`, as `run_recipe` and `evaluate_model` write
            them; a change is that from a to b.
        split: train, valid or test.

    Returns:
        What `compare_results` does: `result["metrics"]["accuracy"]` has `a`, `b`, `change`, and of the change `low` and
        `high` (95 % interval) and `p` (two-sided).

    Raises:
        UserError: an artefact is missing or broken, or the two are of different kinds, rows or references.
    """
    results = read_result(user_path(a), split), read_result(user_path(b), split)
    check_same_rows(*results)
    return compare_results(*results)


def compare_results(a: Result, b: Result) -> dict:
    """Return the content of `compare.json`.

    `{"a", "b": {"folder", "recipe", "stage", "model"}, "kind", "data", "metrics": {name: figure}}`. A figure is `{"a", "b",
    "change", "relative", "low", "high", "p", "n", "method", "note"}`: the change b - a with its 95 % interval and two-sided p,
    the same as a share of |a|, the number of rows, and how it was resampled. What there is not is null, and `note` says why.
    """
    tested = dict(_of_rows(a, b))
    tested = dict(_of_corpus(a, b)) | tested
    reasons = _other_rewards(a.evaluation, b.evaluation) | judged_otherwise(a.evaluation, b.evaluation)
    metrics = {}
    for name in a.evaluation["metrics"] | b.evaluation["metrics"]:
        given = [result.evaluation["metrics"].get(name, {}).get("value") for result in (a, b)]
        if None in given:
            metrics[name] = _figure(*given, note=f"only {'B' if given[0] is None else 'A'} has it")
        elif name in reasons:
            metrics[name] = _figure(*given, note=reasons[name])
        else:
            metrics[name] = tested.get(name) or _figure(*given, given[1] - given[0], note=NOT_IN_ROWS)
    about = {
        side: {"folder": str(result.folder)} | {key: result.evaluation[key] for key in ("recipe", "stage", "model")}
        for side, result in (("a", a), ("b", b))
    }
    return about | {"kind": a.evaluation["kind"], "data": b.evaluation["data"], "metrics": metrics}


def _of_rows(a: Result, b: Result) -> Iterator[tuple[str, dict]]:
    """Yield name and figure of the metrics that are means over rows, on the rows that have a value in both."""
    left, right = a.values(), b.values()
    for name in left.keys() & right.keys() & a.evaluation["metrics"].keys() & b.evaluation["metrics"].keys():
        if not all(_adds_up(result, name, values[name]) for result, values in ((a, left), (b, right))):
            continue
        pairs = [pair for pair in zip(left[name], right[name], strict=True) if None not in pair]
        if not pairs:
            yield name, _figure(None, None, note="no row has a value in both")
            continue
        ones, others = zip(*pairs, strict=True)
        fewer = any(len(pairs) < sum(value is not None for value in values[name]) for values in (left, right))
        note = f"on the {len(pairs)} rows that have a value in both" if fewer else None
        yield (
            name,
            _tested(
                sum(ones) / len(ones), sum(others) / len(others), paired_bootstrap(ones, others), "bootstrap", note
            ),
        )


def _adds_up(result: Result, name: str, values: list) -> bool:
    """Whether the mean over the rows is what the evaluation reports."""
    there = [value for value in values if value is not None]
    return bool(there) and result.reports(name, sum(there) / len(there))


def _of_corpus(a: Result, b: Result) -> Iterator[tuple[str, dict]]:
    """Yield name and figure of the metrics that are computed from all rows together."""
    every = np.arange(len(a.rows))
    left, right = a.statistics(), b.statistics()
    for method in left.keys() & right.keys():
        (names, ours), (others, theirs) = left[method], right[method]
        before, after = (dict(zip(keys, of(every), strict=True)) for keys, of in ((names, ours), (others, theirs)))
        shared = [
            name
            for name in names
            if all(
                name in values and name in result.evaluation["metrics"] and result.reports(name, float(values[name]))
                for result, values in ((a, before), (b, after))
            )
        ]
        if shared:
            change = _change(
                ours, [names.index(name) for name in shared], theirs, [others.index(name) for name in shared]
            )
            for name, test in zip(shared, RESAMPLING[method](change, len(every)), strict=True):
                yield name, _tested(float(before[name]), float(after[name]), test, method)


def _change(ours: Callable, our_places: list[int], theirs: Callable, their_places: list[int]) -> Callable:
    """Return a function from row numbers to the statistics of one result minus those of the other."""
    return lambda rows: theirs(rows)[..., their_places] - ours(rows)[..., our_places]


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


def page(content: dict) -> str:
    """Return the content of `compare.md`, from that of `compare.json` (see `compare_results`)."""
    metrics = content["metrics"]
    notes = list(dict.fromkeys(figure["note"] for figure in metrics.values() if figure["note"]))
    rows = [["metric", "A", "B", "change, B - A", "relative", "p", "n"]]
    for name, figure in metrics.items():
        mark = f" ({notes.index(figure['note']) + 1})" if figure["note"] else ""
        rows.append([in_markdown(name) + mark, *_cells(figure)])
    data, tested = content["data"], sum(figure["p"] is not None for figure in metrics.values())
    parts = [
        f"# Comparison on {data['split']} of {in_markdown(data['source'])}",
        "\n".join(f"- {side.upper()}: {_about(content[side])}" for side in ("a", "b")),
        markdown(rows),
        *(f"({number}) {in_markdown(note)}" for number, note in enumerate(notes, start=1)),
        METHOD,
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
        "p": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
        "n": str,
    }
    return ["-" if figure[key] is None else form(figure[key]) for key, form in forms.items()]


def _about(side: dict) -> str:
    return in_markdown(f"{side['model']} ({side['recipe']} / {side['stage']}), {side['folder']}")


def _several(tested: int) -> str:
    """Return what to think of many p-values at once."""
    return (
        f"{tested} metrics were compared, and p is not corrected for that: if nothing had changed, about {0.05 * tested:.1f} of "
        f"them would still show p < 0.05. With a Bonferroni correction, significance needs p < {0.05 / max(1, tested):.2g}."
    )

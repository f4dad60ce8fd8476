"""Evaluations as results that programs read: the `model-index` of a card, `.eval_results/` of a repository, and back.

In the index, an evaluation is one block with one entry for each metric. `docs/hub.md` describes where the parts of
`eval_<split>.json` are stored; it is a public format. Local paths are not included: the folder of the model is left
out, and only the name of the data folder is kept.

`.eval_results/*.yaml` is the Hub's format for results of benchmarks, without intervals
(https://huggingface.co/docs/hub/eval-results): `to_entries` makes such results, and `read_entries` reads those of anybody.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, constants, parse_eval_result_entries
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, StrictStr, ValidationError

from empathy_trl.data.sources import SPLITS
from empathy_trl.errors import UserError, show
from empathy_trl.evaluation import EVALUATORS, evaluator
from empathy_trl.evaluation.base import NAMES, eval_path
from empathy_trl.evaluation.metrics.reply_classifiers import deciding, digests
from empathy_trl.io import digest, on_hub, read_text
from empathy_trl.recipe.layers import parse_yaml
from empathy_trl.recipe.schema import SAMPLE

ENTRIES_FOLDER = ".eval_results"
ENTRIES_FILE = f"{ENTRIES_FOLDER}/empathy_trl.yaml"
FRAMEWORK = "empathy-trl"  # what `evaluation_framework` in the eval.yaml of a benchmark calls our evaluation


class _About(BaseModel):
    """What stands in `dataset.args`: everything about an evaluation but its figures."""

    model_config = ConfigDict(extra="ignore")

    recipe: StrictStr
    stage: StrictStr
    kind: StrictStr
    name: StrictStr
    source: StrictStr
    n: StrictInt
    rows: StrictStr | None = None
    decoding: StrictStr | None = None
    judged_by: StrictStr | None = None
    classifiers: dict[StrictStr, StrictStr] | None = None
    seed: StrictInt | None = None
    metrics_version: StrictInt | None = None


class _Figure(BaseModel):
    """What stands in `args` of a metric."""

    model_config = ConfigDict(extra="ignore")

    metric: StrictStr
    baseline: StrictStr | None = None
    low: FiniteFloat
    high: FiniteFloat
    n: StrictInt


def to_results(evaluation: dict) -> list[EvalResult]:
    """Return the content of an `eval_<split>.json` as results of a model card, one for each metric and baseline's metric.

    Raises:
        UserError: the content is not of that format, or a figure is not a finite number.
    """
    try:
        data, kind = evaluation["data"], evaluation["kind"]
        about = _About(
            **{key: evaluation.get(key) for key in ("recipe", "stage", "kind", "seed", "metrics_version")},
            **{key: data.get(key) for key in ("name", "n", "rows", "decoding")},
            source=source_name(data["source"]),
            judged_by=judge_digest(evaluation.get("judged_by")),
            classifiers=digests(evaluation) or None,
        ).model_dump(exclude_none=True)
        task_type, task_name = evaluator(kind).hub_task
        return [
            EvalResult(
                task_type=task_type,
                task_name=task_name,
                dataset_type=_dataset_type(data["name"], about["source"]),
                dataset_name=_dataset_title(data["name"], about["source"]),
                # huggingface_hub makes one block of all results that share task, type, config, split and revision
                dataset_config=f"{data['name']}-{digest(about)[:8]}",
                dataset_split=data["split"],
                dataset_revision=data.get("revision"),
                dataset_args=about,
                **metric,
            )
            for metric in _metrics(evaluation)
        ]
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise UserError(
            f"not an evaluation in the format of eval_<split>.json: {type(error).__name__}: {error}"
        ) from error


def _metrics(evaluation: dict) -> Iterator[dict]:
    """Yield type, name, value and arguments of each metric: of the model, then of each baseline."""
    tables = {None: evaluation["metrics"], **evaluation["baselines"]}
    for baseline, metrics in tables.items():
        of = {} if baseline is None else {"baseline": baseline}
        for name, figure in metrics.items():
            if not is_finite(figure["value"]):
                raise UserError(f"metrics.{name}: {figure['value']!r} is not a finite number")
            args = _Figure(metric=name, low=figure["low"], high=figure["high"], n=figure["n"], **of)
            words = name.replace("_", " ")
            yield {
                # a separate type, so that a reader that ignores `baseline` does not take it for the model's figure
                "metric_type": f"baseline_{baseline}_{name}" if of else name,
                "metric_name": f"{words} ({NAMES.get(baseline, baseline)})" if of else words,
                "metric_value": figure["value"],
                "metric_args": args.model_dump(exclude_none=True),
            }


def from_results(results: list[EvalResult], model: str) -> list[dict]:
    """Return the evaluations that results of a model card hold, as far as they are ours (`is_ours`); others are left out.

    Args:
        results: `ModelCard.data.eval_results`.
        model: what the evaluations are to call the model: its Hub id.

    Returns what `eval_<split>.json` has under `recipe`, `stage`, `model`, `kind`, `data`, `metrics`, `baselines`,
    `judged_by` (a digest, see `judge_digest`), `classifiers` (kind -> digest), `seed` and `metrics_version`. `judged_by` and
    `classifiers` are missing where the evaluation has none.
    """
    found = {}
    for result in filter(is_ours, results):
        about, figure = _About(**result.dataset_args), _Figure(**result.metric_args)
        evaluation = found.setdefault(digest([*map(str, result.unique_identifier), about.model_dump()]), {})
        if not evaluation:
            evaluation |= _evaluation(about, result, model)
        metrics = evaluation["metrics"]
        if figure.baseline is not None:
            metrics = evaluation["baselines"].setdefault(figure.baseline, {})
        metrics[figure.metric] = {
            "value": result.metric_value, "low": figure.low, "high": figure.high, "n": figure.n
        }  # fmt: skip
    return list(found.values())


def _evaluation(about: _About, result: EvalResult, model: str) -> dict:
    data = {
        "name": about.name,
        "source": about.source,
        "revision": result.dataset_revision,
        "split": result.dataset_split,
        "n": about.n,
        "rows": about.rows,
    }
    judges = {key: value for key in ("judged_by", "classifiers") if (value := getattr(about, key)) is not None}
    return {
        "recipe": about.recipe,
        "stage": about.stage,
        "model": model,
        "kind": about.kind,
        "data": data | ({} if about.decoding is None else {"decoding": about.decoding}),
        "metrics": {},
        "baselines": {},
        **judges,
        "seed": about.seed,
        "metrics_version": about.metrics_version,
    }


def is_ours(result: EvalResult) -> bool:
    """Say whether a result of a model card is one of `to_results`, whole: with a number, its interval and n.

    Cards by other people hold percentages, texts such as "20.0 ± 1.2", and figures without rows.
    """
    try:
        about = _About(**result.dataset_args)
        _Figure(**result.metric_args)
    except (TypeError, ValidationError):
        return False
    return about.kind in EVALUATORS and isinstance(result.dataset_split, str) and is_finite(result.metric_value)


def to_entries(
    evaluation: dict, benchmark: dict, repo_id: str, seeds: Sequence[int] = (), over_seeds: dict | None = None
) -> list[EvalResultEntry]:
    """Return the figures of an evaluation that its benchmark asks for, as entries of `.eval_results/`.

    Args:
        evaluation: content of an `eval_<split>.json` whose data are on the Hub.
        benchmark: content of `eval.yaml` in the data set's repository. It asks for a figure if it names `FRAMEWORK`, and has a
            task of this split whose id is the key of the metric.
        repo_id: the model's.
        seeds, over_seeds: as `StageFiles.over_seeds` returns them; the notes of an entry then say that it is of one seed.

    Raises:
        UserError: the reason why no figure is an entry.
    """
    data, metrics = evaluation["data"], evaluation["metrics"]
    framework = benchmark.get("evaluation_framework")
    if framework != FRAMEWORK:
        raise UserError(f"its eval.yaml names {show(framework)} as evaluation_framework, not {FRAMEWORK}")
    if data.get("limit"):
        raise UserError(f"only {data['n']} rows of the split were evaluated (limit), and a benchmark takes all")
    tasks = [task for task in benchmark.get("tasks") or [] if isinstance(task, dict)]
    split = [task for task in tasks if task.get("split") in SPLITS[data["split"]]]
    wanted = [task["id"] for task in split if task.get("id") in metrics]
    if not wanted:
        ids = ", ".join(f"{task.get('id')} ({task.get('split')})" for task in tasks) or "none"
        raise UserError(f"no task in its eval.yaml has split {data['split']} and a metric as id (tasks: {ids})")
    file = eval_path(Path(), data["split"]).name
    about = [f"stage {evaluation['stage']} of recipe {evaluation['recipe']}, seed {evaluation.get('seed')}"]
    about = [data["decoding"], *about] if data.get("decoding") else about
    return [
        EvalResultEntry(
            dataset_id=data["source"],
            task_id=name,
            value=metrics[name]["value"],
            dataset_revision=revision if re.fullmatch("[0-9a-f]{40}", revision := str(data.get("revision"))) else None,
            source_url=f"{constants.ENDPOINT}/{repo_id}/blob/main/{file}",
            source_name=f"{FRAMEWORK}: {file}",
            notes="; ".join([_interval(metrics[name]), *about, *_spread(seeds, (over_seeds or {}).get(name))]),
        )
        for name in wanted
    ]


def _interval(figure: dict) -> str:
    return f"95 % interval {figure['low']:.3f} to {figure['high']:.3f}, n = {figure['n']}"


def _spread(seeds: Sequence[int], figure: dict | None) -> list[str]:
    words = f"one of seeds {', '.join(map(str, seeds))}, whose mean ± standard deviation is"
    return [f"{words} {figure['value']:.3f} ± {figure['sd']:.3f}"] if figure else []


class _Task(BaseModel):
    """`dataset` of an entry of `.eval_results/`."""

    id: StrictStr
    task_id: StrictStr
    revision: StrictStr | None = None


class _Source(BaseModel):
    """`source` of an entry."""

    url: Annotated[StrictStr, Field(pattern=r"^https?://[^\s<>\"]+$")]
    name: StrictStr | None = None
    user: StrictStr | None = None
    org: StrictStr | None = None


class _Entry(BaseModel):
    """An entry of `.eval_results/`; other keys are ignored."""

    dataset: _Task
    value: Annotated[float, Field(strict=True, allow_inf_nan=False)]
    date: StrictStr | None = None
    source: _Source | None = None
    notes: StrictStr | None = None


EXPECTED = {
    "dataset": "a mapping with id and task_id",
    "id": "the id of a data set on the Hub",
    "value": "a number",
    "date": "a date such as 2026-01-31",
    "source": "a mapping with url",
    "url": "an address that begins with https://",
}


def read_entries(path: Path, origin: str) -> tuple[list[EvalResultEntry], list[str]]:
    """Return the entries of a file of `.eval_results/`, and one line for each key that makes an entry unusable.

    Args:
        path: the file, which may hold anything.
        origin: what the lines call it; they also have the line number, the key and what was expected.
    """
    try:
        content = read_text(path)
        items, tree = parse_yaml(content, origin), yaml.compose(content, Loader=yaml.SafeLoader)
    except UserError as error:
        return [], [str(error)]
    if not isinstance(items, list):
        return [], [f"{origin}, line 1: {show(items)}; expected a list of results, each with dataset and value"]
    entries, problems = [], []
    for item, node in zip(items, tree.value, strict=True):
        try:
            _Entry.model_validate(item)
        except ValidationError as error:
            problems += [_problem(origin, node, detail) for detail in error.errors()]
        else:
            entries += parse_eval_result_entries([item])
    return entries, problems


def _problem(origin: str, node: yaml.Node, detail: dict) -> str:
    keys = detail["loc"]
    given = "missing" if detail["type"] == "missing" else show(detail["input"])
    expected = EXPECTED.get(keys[-1], "a text") if keys else "a mapping with dataset and value"
    return f"{origin}, line {_line(node, keys)}: {'.'.join(keys)}{': ' if keys else ''}{given}; expected {expected}"


def _line(node: yaml.Node, keys: Sequence[str]) -> int:
    """Return the line of a key, or of the mapping that lacks it."""
    line = node.start_mark.line + 1
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        for name, value in pairs:
            if name.value == key:
                line, node = name.start_mark.line + 1, value
                break
        else:
            return line
    return line


def judge_digest(judged_by: dict | str | None) -> str | None:
    """Return a digest of what an evaluation says under `judged_by`; a digest, which is what a card has, stays as it is.

    Two results whose digests differ were judged by different rewards: their totals mean different things.
    """
    return judged_by if judged_by is None or isinstance(judged_by, str) else digest(deciding(judged_by))


def source_name(path: str) -> str:
    """Return `data.source` as others may read it: `sample`, a Hub id, or the name of a folder or file without its place."""
    return path if path == SAMPLE or on_hub(path, needs_owner=True) else Path(path).expanduser().absolute().name


def _dataset_type(name: str, source: str) -> str:
    return f"empathy-trl-sample-{name}" if source == SAMPLE else source


def _dataset_title(name: str, source: str) -> str:
    return f"embedded corpus of empathy-trl ({name})" if source == SAMPLE else f"{source} ({name})"


def is_finite(value) -> bool:
    """Whether a value is a number that a float can hold; a file may have a whole number of any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max

"""Evaluations as the machine-readable results of a model card (its `model-index`), and back.

An evaluation is one block of the index, with one entry for each metric. `docs/hub.md` describes where the parts of
`eval_<split>.json` are stored; it is a public format. Local paths are not included: the folder of the model is left
out, and only the name of the data folder is kept.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import EvalResult
from pydantic import BaseModel, ConfigDict, FiniteFloat, StrictInt, StrictStr, ValidationError

from empathy_trl.errors import UserError
from empathy_trl.evaluation import EVALUATORS, evaluator
from empathy_trl.evaluation.base import NAMES
from empathy_trl.evaluation.metrics.reply_classifiers import deciding, digests
from empathy_trl.io import digest, on_hub
from empathy_trl.recipe.schema import SAMPLE


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

"""The report of a run: what training changed, for a reader who has not seen the run.

`report.md` and `report.png` are made from the artefacts below `outputs/<recipe>/` and nothing else, so they
can be made anew at any time. Stages are compared on the same rows: the interval of a difference comes from a
paired bootstrap.
"""

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

import yaml

from empathy_trl.errors import UserError
from empathy_trl.evaluation import artefacts
from empathy_trl.evaluation.baselines import NAMES
from empathy_trl.evaluation.intervals import paired_bootstrap, with_interval
from empathy_trl.evaluation.plots import draw_report
from empathy_trl.files import read_rows, write_text

# what a stage's folder may hold for a reader, beside the model
STAGE_FILES = (
    "samples.md",
    "reward_curve.png",
    "metrics.jsonl",
    "eval_{split}.json",
    "predictions_{split}.jsonl",
    "confusion_{split}.png",
    "recipe.yaml",
    "run.json",
)


@dataclass
class EvaluatedStage:
    """What the artefacts of one stage say."""

    folder: Path
    evaluation: dict
    predictions: list[dict]
    log: list[dict]

    @property
    def name(self) -> str:
        return self.folder.name


def write_report(run_dir: str | Path, split: str = "test") -> Path:
    """Write `report.md` and `report.png` for a run and return the path of the former.

    Args:
        run_dir: `outputs/<recipe>`, with at least one stage that has been evaluated on the split.
        split: train, valid or test.

    Raises:
        UserError: no evaluated stage, or a broken artefact (the message names it).
    """
    run_dir = Path(run_dir)
    stages = read_stages(run_dir, split)
    recipe = stages[-1].evaluation["recipe"]
    draw_report(
        run_dir / "report.png",
        title=recipe,
        accuracies={stage.name: stage.evaluation["metrics"]["accuracy"] for stage in stages},
        baselines={NAMES[key]: row["accuracy"]["value"] for key, row in stages[-1].evaluation["baselines"].items()},
        rewards={stage.name: points for stage in stages if (points := _curve(stage, "reward"))},
    )
    parts = [
        f"# {recipe}",
        _headline(stages),
        "![Accuracy of every stage and the reward during training](report.png)",
        "## Stages side by side",
        _stage_table(stages),
        "## Per emotion",
        _emotion_table(stages),
        "## Training",
        _training_table(stages),
        "## Examples",
        _examples(stages),
        "## How to reproduce",
        _reproduction(run_dir, stages[-1]),
        "## Files",
        _files(stages),
    ]
    return write_text(run_dir / "report.md", "\n\n".join(parts) + "\n")


def read_stages(run_dir: Path, split: str) -> list[EvaluatedStage]:
    """Read the evaluated stages in the order of `recipe.yaml`; without that file, in the order of evaluation.

    Only stages that it names are read: a folder of an earlier run with other settings may lie beside them.
    """
    files = sorted(run_dir.glob(f"*/eval_{split}.json"), key=lambda file: file.stat().st_mtime)
    evaluated = [file.parent.name for file in files]
    recipe = run_dir / "recipe.yaml"
    if recipe.is_file():
        named = yaml.safe_load(recipe.read_text(encoding="utf-8"))["stages"]
        evaluated = [name for name in named if name in evaluated]
    if not evaluated:
        raise UserError(f"{run_dir}: no stage with an eval_{split}.json; train or evaluate one first")
    return [_read_stage(run_dir / name, split) for name in evaluated]


def _read_stage(folder: Path, split: str) -> EvaluatedStage:
    log = folder / "metrics.jsonl"
    return EvaluatedStage(
        folder=folder,
        evaluation=artefacts.read_eval(folder, split),
        predictions=artefacts.read_predictions(folder, split),
        log=read_rows(log) if log.is_file() else [],
    )


def compare(first: EvaluatedStage, last: EvaluatedStage) -> dict | None:
    """Paired bootstrap of the accuracy difference on the rows both have seen; None when there are none."""
    pairs = _common_rows([first, last])
    if not pairs:
        return None
    return paired_bootstrap([a["correct"] for a, _ in pairs], [b["correct"] for _, b in pairs])


def _common_rows(stages: list[EvaluatedStage]) -> list[tuple[dict, ...]]:
    """Prediction rows of all stages, matched by row number and text."""
    by_key = [{(row["index"], row["text"]): row for row in stage.predictions} for stage in stages]
    return [tuple(rows[key] for rows in by_key) for key in by_key[0] if all(key in rows for rows in by_key)]


def _headline(stages: list[EvaluatedStage]) -> str:
    first, last = stages[0], stages[-1]
    split, accuracy = last.evaluation["data"]["split"], last.evaluation["metrics"]["accuracy"]
    baselines = "; ".join(
        f"{NAMES[key]} {row['accuracy']['value']:.3f}" for key, row in last.evaluation["baselines"].items()
    )
    reference = f"For comparison: {baselines}."
    change = compare(first, last) if first is not last else None
    if change is None:
        return f"**{last.name}: {split} accuracy {with_interval(accuracy)}, n = {accuracy['n']}.** {reference}"
    before = first.evaluation["metrics"]["accuracy"]["value"]
    excludes = change["low"] > 0 or change["high"] < 0
    verdict = "excludes 0: the change is established" if excludes else "includes 0: the change is not established"
    return (
        f"**From {first.name} to {last.name}, {split} accuracy went from {before:.3f} to "
        f"{accuracy['value']:.3f}: {change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}] "
        f"on the same {change['n']} rows.** The interval (95 %, paired bootstrap) {verdict}. {reference}"
    )


def _stage_table(stages: list[EvaluatedStage]) -> str:
    rows = [["", "accuracy", "macro-F1", "invalid answers", "words of reasoning", "n"]]
    for stage in stages:
        metrics = stage.evaluation["metrics"]
        names = ("accuracy", "macro_f1", "invalid_share", "mean_reasoning_words")
        rows.append([stage.name, *(with_interval(metrics[name]) for name in names), metrics["accuracy"]["n"]])
    for key, metrics in stages[-1].evaluation["baselines"].items():
        figures = [with_interval(metrics[name]) for name in ("accuracy", "macro_f1")]
        rows.append([NAMES[key], *figures, "", "", metrics["accuracy"]["n"]])
    data = stages[-1].evaluation["data"]
    note = (
        f"Split `{data['split']}` of `{data['source']}`, greedy decoding, 95 % bootstrap intervals. An "
        "invalid answer (no single `<answer>` tag, or no known emotion in it) counts as wrong. The baselines "
        "were fitted on the labels of the whole training split."
    )
    return _table(rows) + "\n\n" + note


def _emotion_table(stages: list[EvaluatedStage]) -> str:
    header = [f"{share}, {stage.name}" for stage in stages for share in ("precision", "recall")]
    rows = [["emotion", *header, "n"]]
    for label in stages[-1].evaluation["confusion"]["rows"]:
        shares = [
            with_interval(stage.evaluation["metrics"][f"{share}_{label}"])
            for stage in stages
            for share in ("precision", "recall")
        ]
        rows.append([label, *shares, stages[-1].evaluation["metrics"][f"recall_{label}"]["n"]])
    return _table(rows) + "\n\nn: rows of that emotion."


def _training_table(stages: list[EvaluatedStage]) -> str:
    columns = {
        "loss": "loss",
        "reward": "reward",
        "rewards/emotion_accuracy/mean": "reward for the emotion",
        "kl": "KL",
        "completions/mean_length": "tokens per completion",
        "invalid_share": "invalid answers",
    }
    used = [key for key in columns if any(_curve(stage, key) for stage in stages)]
    if not used:
        return "No training log."
    rows = [["", "steps", *(columns[key] for key in used)]]
    for stage in stages:
        cells = [_start_and_end([value for _, value in _curve(stage, key)]) for key in used]
        rows.append([stage.name, max((row["step"] for row in stage.log), default=0), *cells])
    return _table(rows) + "\n\nMean of the first tenth of the logged rows → mean of the last tenth."


def _curve(stage: EvaluatedStage, key: str) -> list[tuple[int, float]]:
    """Points (step, value) of a logged key; rows without it, or with NaN, are left out."""
    points = [(row["step"], row.get(key)) for row in stage.log]
    return [(step, value) for step, value in points if value is not None and math.isfinite(value)]


def _start_and_end(values: list[float]) -> str:
    if not values:
        return ""
    width = max(1, len(values) // 10)
    start, end = (sum(part) / width for part in (values[:width], values[-width:]))
    return f"{start:.3g} → {end:.3g}"


def _examples(stages: list[EvaluatedStage]) -> str:
    """Three rows on which first and last stage disagree: one gained, one lost, one wrong in both, if any."""
    rows, intro = (
        _common_rows(stages),
        "Answers of the model; the first one is wrong, where there is a wrong one.",
    )
    if len(stages) > 1:
        intro = "Where the stages differ: one row gained, one lost, one wrong in both, if there are."
        rows = [row for row in rows if row[0]["prediction"] != row[-1]["prediction"]]
    if not rows:
        return "No row on which the stages answer differently."
    kinds = {}
    for row in rows:
        kinds.setdefault((row[0]["correct"], row[-1]["correct"]), row)
    picked = [kinds[kind] for kind in ((False, True), (True, False), (False, False)) if kind in kinds]
    picked += [row for row in rows if row not in picked]
    return "\n\n".join([intro, *(_example(stages, row) for row in picked[:3])])


def _example(stages: list[EvaluatedStage], row: tuple[dict, ...]) -> str:
    """An indented block: nothing in a generated text is then read as Markdown or HTML."""
    width = max(len("situation"), *(len(stage.name) for stage in stages)) + 2
    lines = [("situation", row[0]["text"]), ("emotion", row[0]["label"])]
    for stage, answer in zip(stages, row, strict=True):
        mark = "right" if answer["correct"] else "wrong"
        lines.append((stage.name, f"{answer['prediction'] or 'invalid'} ({mark}): {answer['completion']}"))
    block = []
    for name, text in lines:
        shortened = textwrap.shorten(text, 400, placeholder=" …")
        block += textwrap.wrap(f"{name:<{width}}{shortened}", 100, subsequent_indent=" " * width)
    return f"Row {row[0]['index']}:\n\n" + textwrap.indent("\n".join(block), "    ")


def _reproduction(run_dir: Path, last: EvaluatedStage) -> str:
    evaluation = last.evaluation
    command = f"accelerate launch recipes/run.py --recipe {evaluation['recipe']}.yaml --seed {evaluation['seed']}"
    if evaluation["data"]["source"] != "sample":
        command += f" --data.path {evaluation['data']['source']}"
    paragraphs = [f"    {command}"]
    if (run_dir / "recipe.yaml").is_file():
        exact = f"--recipe {run_dir / 'recipe.yaml'} --output_dir {run_dir}_again"
        paragraphs += [
            "Or with every setting of this run, overrides included:",
            f"    accelerate launch recipes/run.py {exact}",
        ]
    versions = ", ".join(f"{name} {number}" for name, number in evaluation["versions"].items())
    return "\n\n".join([*paragraphs, f"Versions: {versions}."])


def _files(stages: list[EvaluatedStage]) -> str:
    lines = []
    for stage in stages:
        names = [name.format(split=stage.evaluation["data"]["split"]) for name in STAGE_FILES]
        links = [f"[{name}]({stage.name}/{name})" for name in names if (stage.folder / name).is_file()]
        lines.append(f"- {stage.name}: {', '.join(links)}")
    return "\n".join(lines)


def _table(rows: list[list]) -> str:
    """Return a Markdown table; the first row is the header."""
    header, *body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join([header, "|---" * len(rows[0]) + "|", *body])

"""The report of a run: what training changed, for a reader who has not seen the run.

`report.md` and `report.png` need only the files below `outputs/<recipe>/`, so they can be written again at any time.
Stages are compared on the same rows, and the interval of a difference comes from a paired bootstrap. Stages are in
separate parts if they are of different kinds (a reward model, and the policy that learned from it) or if different
rewards judged their replies.
"""

import itertools
import json
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

from empathy_trl.cli import in_words
from empathy_trl.errors import UserError
from empathy_trl.evaluation import evaluator
from empathy_trl.evaluation.base import NAMES, UNTRAINED, describe_cuts, markdown, read_eval, read_predictions
from empathy_trl.evaluation.compare import Result, check_same_rows, compare_results, recorded_stages
from empathy_trl.evaluation.metrics.bootstrap import paired_bootstrap, with_interval
from empathy_trl.evaluation.plots import draw_report
from empathy_trl.io import json_or_none, read_rows, user_path, write_text
from empathy_trl.recipe.layers import LABEL_TASKS, RECIPE_FILE
from empathy_trl.text import in_markdown

# what a stage's folder may hold for a reader, beside the model
STAGE_FILES = (
    "samples.md",
    "reward_curve.png",
    "metrics.jsonl",
    "eval_{split}.json",
    "predictions_{split}.jsonl",
    "confusion_{split}.png",
    "ratings_{split}.png",
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
    rows: dict[str, dict]  # split -> counts of its rows; empty for runs of earlier versions
    advice: list[dict]  # {"step", "cause", "message"} from the training
    best: dict | None = None  # figures while training, see `evaluation.held_out`

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def evaluator(self):
        """The evaluator that knows how such a stage is evaluated."""
        return evaluator(self.evaluation["kind"])


def write_report(run_dir: str | Path, split: str = "test") -> Path:
    """Write `report.md` and `report.png` for a run and return the path of the former.

    Args:
        run_dir: `outputs/<recipe>`, with at least one stage that has been evaluated on the split.
        split: train, valid or test.

    Raises:
        UserError: no evaluated stage, or a broken artefact (the message names it).
    """
    run_dir = user_path(run_dir)
    stages = read_stages(run_dir, split)
    recipe = stages[-1].evaluation["recipe"]
    groups = comparable(stages)
    draw_report(
        run_dir / "report.png",
        title=recipe,
        panels=[_panel(group) for group in groups],
        rewards={stage.name: points for stage in stages if (points := curve(stage, "reward"))},
    )
    parts = [
        f"# {in_markdown(recipe)}",
        *map(_headline, groups),
        "![Every stage's main figure, and the reward](report.png)",
    ]
    for group in groups:
        names = ", ".join(in_markdown(stage.name) for stage in group)
        several = f" ({group[0].evaluation['kind']}: {names})" if len(groups) > 1 else ""
        parts += [f"## Stages side by side{several}", _stage_table(group)]
        parts += ["### Changes", changes] if (changes := _changes(group)) else []
        parts += [part for title, text in group[0].evaluator.details(group).items() for part in (f"## {title}", text)]
    parts += ["## Rows", rows] if (rows := _rows(stages)) else []
    parts += ["## Training", _training_table(stages), *_figures_while_training(stages)]
    parts += ["## Advice", advice] if (advice := _advice(stages)) else []
    parts += ["## First rows", *map(_first_rows, groups), "## Examples", *map(_examples, groups)]
    parts += ["## How to reproduce", _reproduction(run_dir, stages[-1]), "## Files", _files(run_dir, stages)]
    return write_text(run_dir / "report.md", "\n\n".join(parts) + "\n")


def summary(run_dir: str | Path, split: str = "test") -> str:
    """Return at most ten lines about a run whose report is written: figures, changes, time, and what to look at next.

    Args and raises: as `write_report`.
    """
    run_dir = user_path(run_dir)
    stages = read_stages(run_dir, split)
    last, groups = stages[-1], comparable(stages)
    advice = sum(len(record.get("advice", ())) for record in _records(stages))
    more = f"; the report shows {len(groups) - 2} more tables of figures" if len(groups) > 2 else ""
    lines = [f"{last.evaluation['recipe']}: trained in {in_words(run_seconds(stages))}{more}"]
    lines += [line for group in groups[-2:] for line in _summary(group)]
    if advice:
        lines.append(f"advice: {advice} warning{'s' * (advice > 1)} about the training; the report says what to do")
    paths = {"report": run_dir / "report.md", "plot": run_dir / "report.png", "model": last.folder}
    lines += [f"{name + ':':<8}{path}" for name, path in paths.items()]
    return "\n".join([*lines, f"next:   {_next_command(last)}"])


def run_seconds(stages: list[EvaluatedStage]) -> float:
    """Return how long the stages of a run were trained, in seconds."""
    return sum(record.get("train_seconds", 0) for record in _records(stages))


def _records(stages: list[EvaluatedStage]) -> list[dict]:
    """Return the content of `run.json` of every trained stage."""
    return [json_or_none(folder / "run.json") or {} for folder in dict.fromkeys(map(_trained_folder, stages))]


def _trained_folder(stage: EvaluatedStage) -> Path:
    return stage.folder.parent if stage.folder.name == UNTRAINED else stage.folder


def _summary(stages: list[EvaluatedStage]) -> list[str]:
    """Return a line with every stage's main figure, and one with the change and the baselines."""
    last, panel = stages[-1], _panel(stages)
    figures = ", ".join(f"{name} {with_interval(figure)}" for name, figure in panel["figures"].items())
    data = last.evaluation["data"]
    lines = [f"{data['split']} {panel['name']}, n = {data['n']}: {figures}"]
    parts = [f"{name} {value:.3f}" for name, value in panel["baselines"].items()]
    references = [f"baselines: {', '.join(parts)}"] if parts else []
    if change := _change(stages):
        verdict = "established" if is_established(change) else "not established"
        references.insert(0, f"{stages[0].name} to {last.name}: {_change_text(change)}, {verdict}")
    return [*lines, *(["; ".join(references)] if references else [])]


def _next_command(last: EvaluatedStage) -> str:
    """Return the command that a reader of a result would try next."""
    if last.evaluator.rows_task in LABEL_TASKS:
        return f"empathy-trl evaluate --recipe {last.folder / 'recipe.yaml'} --model {last.folder} --split valid"
    return f"empathy-trl chat --model {last.folder}"


def comparable(stages: list[EvaluatedStage]) -> list[list[EvaluatedStage]]:
    """Return the stages in groups of one kind of evaluation, by the same rewards; in the order of their first stages."""
    groups = {}
    for stage in stages:
        judged_by = json.dumps(stage.evaluation.get("judged_by"), sort_keys=True)
        groups.setdefault((stage.evaluation["kind"], judged_by), []).append(stage)
    return list(groups.values())


def _panel(stages: list[EvaluatedStage]) -> dict:
    """Return what `draw_report` shows of stages that can be compared."""
    evaluator, baselines = stages[-1].evaluator, stages[-1].evaluation["baselines"]
    return {
        "name": evaluator.main_metric_title,
        "figures": {stage.name: stage.evaluation["metrics"][evaluator.main_metric] for stage in stages},
        "baselines": {
            NAMES[key]: row[evaluator.main_metric]["value"]
            for key, row in baselines.items()
            if evaluator.main_metric in row
        },
    }


def read_stages(run_dir: Path, split: str) -> list[EvaluatedStage]:
    """Read the evaluated stages in the order of `recipe.yaml`; without that file, in the order of evaluation.

    If a stage's model was also evaluated before the training, that evaluation comes before the stage's.
    Only stages that it names are read: a folder of an earlier run with other settings may lie beside them.
    """
    files = sorted(run_dir.glob(f"*/eval_{split}.json"), key=lambda file: file.stat().st_mtime)
    evaluated = [file.parent.name for file in files]
    if (run_dir / RECIPE_FILE).is_file():
        evaluated = [name for name in recorded_stages(run_dir) if name in evaluated]
    if not evaluated:
        raise UserError(f"{run_dir}: no stage with an eval_{split}.json; train or evaluate one first")
    folders = [folder for name in evaluated for folder in (run_dir / name / UNTRAINED, run_dir / name)]
    return [_read_stage(folder, split) for folder in folders if (folder / f"eval_{split}.json").is_file()]


def _read_stage(folder: Path, split: str) -> EvaluatedStage:
    log, record = folder / "metrics.jsonl", json_or_none(folder / "run.json") or {}
    return EvaluatedStage(
        folder=folder,
        evaluation=read_eval(folder, split),
        predictions=read_predictions(folder, split),
        log=read_rows(log) if log.is_file() else [],
        rows=record.get("rows", {}),
        advice=record.get("advice", []),
        best=record.get("best"),
    )


def compare(first: EvaluatedStage, last: EvaluatedStage) -> dict | None:
    """Paired bootstrap of the difference in the rows' scores, on the rows both have seen; None when there are none."""
    pairs = _common_rows([first, last])
    if not pairs:
        return None
    score = last.evaluator.row_score
    return paired_bootstrap([score(a) for a, _ in pairs], [score(b) for _, b in pairs])


def _common_rows(stages: list[EvaluatedStage]) -> list[tuple[dict, ...]]:
    """Prediction rows of all stages, matched by row number and text; without those that have no score in one of them."""
    score = stages[-1].evaluator.row_score
    by_key = [
        {(row["index"], row["text"]): row for row in stage.predictions if score(row) is not None} for stage in stages
    ]
    return [tuple(rows[key] for rows in by_key) for key in by_key[0] if all(key in rows for rows in by_key)]


def _headline(stages: list[EvaluatedStage]) -> str:
    first, last = stages[0], stages[-1]
    evaluator, split, main = (
        last.evaluator,
        last.evaluation["data"]["split"],
        last.evaluation["metrics"][last.evaluator.main_metric],
    )
    baselines = "; ".join(f"{name} {value:.3f}" for name, value in _panel(stages)["baselines"].items())
    reference = f" For comparison: {baselines}." if baselines else ""
    change = _change(stages)
    if change is None:
        values = (
            f"{in_markdown(stage.name)}: {split} {evaluator.main_metric_title} {with_interval(stage.evaluation['metrics'][evaluator.main_metric])}, "
            f"n = {stage.evaluation['data']['n']}."
            for stage in (stages if not evaluator.paired else [last])
        )
        return f"**{' '.join(values)}**{reference}"
    before = first.evaluation["metrics"][evaluator.main_metric]["value"]
    excludes = "excludes 0: the change is established"
    verdict = excludes if is_established(change) else "includes 0: the change is not established"
    return (
        f"**From {in_markdown(first.name)} to {in_markdown(last.name)}, {split} {evaluator.main_metric_title} went from {before:.3f} to "
        f"{main['value']:.3f}: {_change_text(change)} "
        f"on the same {change['n']} rows.** The interval (95 %, paired bootstrap) {verdict}.{reference}"
    )


def _change(stages: list[EvaluatedStage]) -> dict | None:
    """Return `compare` of the first and the last stage, None where there is only one or the kind has no score per row."""
    return compare(stages[0], stages[-1]) if len(stages) > 1 and stages[-1].evaluator.paired else None


def is_established(change: dict) -> bool:
    """Return whether the interval of a change excludes 0."""
    return change["low"] > 0 or change["high"] < 0


def _change_text(change: dict) -> str:
    return f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"


def _stage_table(stages: list[EvaluatedStage]) -> str:
    """Return the table of one group: stages, then baselines, each with its main figures."""
    last = stages[-1].evaluation
    columns, data = stages[-1].evaluator.column_titles(last), last["data"]

    def row(name: str, metrics: dict, n: int) -> list:
        return [name, *(with_interval(metrics[key]) if key in metrics else "" for key in columns), n]

    rows = [["", *columns.values(), "n"]]
    for stage in stages:
        name, n = in_markdown(stage.name), stage.evaluation["data"]["n"]
        rows.append(row(name, stage.evaluation["metrics"], n))
        others = stage.evaluator.other_rows(stage.evaluation)
        rows += [row(f"{name}, {other}", metrics, n) for other, metrics in others.items()]
    owners = _one_per_rows(stages)
    for stage in owners:
        of = f", rows of {in_markdown(stage.name)}" if len(owners) > 1 else ""
        for key, metrics in stage.evaluation["baselines"].items():
            if columns.keys() & metrics.keys():
                rows.append(row(NAMES[key] + of, metrics, stage.evaluation["data"]["n"]))
    decoded = f"{data['decoding']}, " if "decoding" in data else ""
    return (
        markdown(rows)
        + f"\n\nSplit {data['split']} of {in_markdown(data['source'])}{describe_cuts(data)}, {decoded}{stages[-1].evaluator.note}"
    )


def _changes(stages: list[EvaluatedStage]) -> str:
    """Return the table of the changes from stage to stage, paired by row; "" for one stage. Counts of n-grams take too long."""
    columns, reasons = {}, []
    for pair in neighbours(stages):
        name = in_markdown(f"{pair[0].name} to {pair[1].name}")
        results = [Result(s.folder, s.evaluation, sorted(s.predictions, key=lambda row: row["index"])) for s in pair]
        try:
            check_same_rows(*results)
            columns[name] = compare_results(*({None: each} for each in results), methods=("bootstrap",))["metrics"]
        except UserError as error:
            reasons.append(f"- {name}: not compared, because {in_markdown(error)}")
    rows = [["", *columns]]
    for key, title in stages[-1].evaluator.column_titles(stages[-1].evaluation).items():
        figures = [metrics.get(key, {"low": None}) for metrics in columns.values()]
        if any(figure["low"] is not None for figure in figures):
            cells = ["" if f["low"] is None else _change_text(f | {"difference": f["change"]}) for f in figures]
            rows.append([title, *cells])
    note = "95 %, paired bootstrap: the same rows are drawn again for both. An interval that includes 0 establishes no change."
    return "\n\n".join([*([markdown(rows), note] if len(rows) > 1 else []), *reasons])


def neighbours(stages: list) -> list[tuple]:
    """Return each stage with the next one, and of more than two the first with the last."""
    return [*itertools.pairwise(stages), *([(stages[0], stages[-1])] if len(stages) > 2 else [])]


def _one_per_rows(stages: list[EvaluatedStage]) -> list[EvaluatedStage]:
    """Return the last of the stages that were evaluated on the same rows; baselines hold for these rows alone."""
    by_rows = {tuple((row["index"], row["text"]) for row in stage.predictions): stage for stage in stages}
    return list(by_rows.values())


def _rows(stages: list[EvaluatedStage]) -> str:
    """Return how many rows of every stage were read, dropped and shortened by the data, and cut and dropped by the trainer."""
    return "\n".join(
        f"- {in_markdown(stage.name)}, {split}: {rows['summary']}"
        for stage in stages
        for split, rows in stage.rows.items()
    )


def _training_table(stages: list[EvaluatedStage]) -> str:
    columns = {
        "loss": "loss",
        "eval_pearson_mean": "mean Pearson on valid",
        "eval_accuracy_mean": "accuracy on valid",
        "eval_pair_accuracy": "pair accuracy on valid",
        "reward": "reward",
        "rewards/emotion_accuracy/mean": "reward for the emotion",
        "kl": "KL",
        "completions/mean_length": "tokens per completion",
        "completions/mean_thought_length": "of these in thoughts",
        "completions/clipped_ratio": "completions cut off",
        "invalid_share": "invalid answers",
    }
    used = [key for key in columns if any(curve(stage, key) for stage in stages)]
    if not used:
        return "No training log."
    rows = [["", "steps", *(columns[key] for key in used)]]
    for stage in (stage for stage in stages if stage.log):
        cells = [_start_and_end([value for _, value in curve(stage, key)]) for key in used]
        rows.append([in_markdown(stage.name), max((row["step"] for row in stage.log), default=0), *cells])
    return markdown(rows) + "\n\nMean of the first tenth of the logged rows → mean of the last tenth."


def _advice(stages: list[EvaluatedStage]) -> str:
    """Return what the trainings said about their curves, one line for each cause."""
    return "\n".join(
        f"- {in_markdown(stage.name)}, step {each['step']}: {in_markdown(each['message'])}."
        for stage in stages
        for each in stage.advice
    )


def _figures_while_training(stages: list[EvaluatedStage]) -> list[str]:
    """Return a paragraph about the figures on `valid` while training, best and last; none if there are no such figures."""
    lines = []
    for stage in (stage for stage in stages if stage.best):
        best, split = stage.best, stage.evaluation["data"]["split"]
        lines.append(
            f"- {in_markdown(stage.name)}: {best['figure'].replace('_', ' ')} {best['value']:.3f} at best (step {best['step']}), "
            f"{best['last_value']:.3f} at the last step ({best['last_step']}); {best['evaluations']} evaluations on {best['n']} rows of "
            f"valid. The model is that of step {best['kept_step']}."
            + (
                " These rows are also among those evaluated above, whose figures are then optimistic."
                if split == "valid"
                else ""
            )
        )
    if not lines:
        return []
    head = "Figures on valid while training. The best of several evaluations is optimistic, because it is also the luckiest:"
    return ["\n".join([head, "", *lines])]


def curve(stage: EvaluatedStage, key: str) -> list[tuple[int, float]]:
    """Points (step, value) of a logged key; rows without it, or with NaN, are left out."""
    points = [(row["step"], row.get(key)) for row in stage.log]
    return [(step, value) for step, value in points if value is not None and math.isfinite(value)]


def _start_and_end(values: list[float]) -> str:
    if not values:
        return ""
    width = max(1, len(values) // 10)
    start, end = (sum(part) / width for part in (values[:width], values[-width:]))
    return f"{start:.3g} → {end:.3g}"


FIRST_ROWS = 5


def _first_rows(stages: list[EvaluatedStage]) -> str:
    """Return the first rows that all stages were evaluated on, whatever became of them."""
    rows = sorted(_common_rows(stages), key=lambda row: row[0]["index"])[:FIRST_ROWS]
    if not rows:
        return "No row that all stages have."
    intro = f"The first {len(rows)} evaluated rows; they were not picked." if len(rows) > 1 else "The only row."
    return "\n\n".join([intro, *(_example(stages, row) for row in rows)])


def _examples(stages: list[EvaluatedStage]) -> str:
    """Three rows: where the stages differ, the largest gain, the largest loss and the worst of both."""
    rows, intro = _common_rows(stages), "What the model said; the worst row first."
    score = stages[-1].evaluator.row_score
    change = [score(row[-1]) - score(row[0]) for row in rows]
    if len(stages) > 1:
        intro = "Where the stages differ: one row gained, one lost, one wrong in both, if there are."
        answer = stages[-1].evaluator.answer
        kept = [
            i
            for i, row in enumerate(rows)
            if row[0].get("prediction", answer(row[0])) != row[-1].get("prediction", answer(row[-1]))
        ]
        rows, change = [rows[i] for i in kept], [change[i] for i in kept]
    if not rows:
        return "No row on which the stages answer differently."
    order = range(len(rows))
    gained, lost = max(order, key=lambda i: change[i]), min(order, key=lambda i: change[i])
    worst = min(order, key=lambda i: (change[i] != 0, score(rows[i][0]) + score(rows[i][-1])))
    picked = [i for i, fits in ((gained, change[gained] > 0), (lost, change[lost] < 0), (worst, True)) if fits]
    picked = list(dict.fromkeys([*picked, *order]))[:3]
    return "\n\n".join([intro, *(_example(stages, rows[i]) for i in picked)])


def _example(stages: list[EvaluatedStage], row: tuple[dict, ...]) -> str:
    """An indented block: nothing in a generated text is then read as Markdown or HTML."""
    evaluator = stages[-1].evaluator
    lines = evaluator.question(row[0]) + [
        (stage.name, evaluator.answer(answer)) for stage, answer in zip(stages, row, strict=True)
    ]
    width = max(len(name) for name, _ in lines) + 2
    block = []
    for name, text in lines:
        shown = textwrap.shorten(text, 400, placeholder=" …")
        block += textwrap.wrap(f"{name:<{width}}{shown}", 100, subsequent_indent=" " * width)
    return f"Row {row[0]['index']}:\n\n" + textwrap.indent("\n".join(block), "    ")


def _reproduction(run_dir: Path, last: EvaluatedStage) -> str:
    evaluation = last.evaluation
    command = f"accelerate launch -m empathy_trl.commands run --recipe {evaluation['recipe']}.yaml --seed {evaluation['seed']}"
    if evaluation["data"]["source"] != "sample":
        command += f" --data.path {evaluation['data']['source']}"
    paragraphs = [f"    {command}"]
    if (run_dir / "recipe.yaml").is_file():
        exact = f"--recipe {run_dir / 'recipe.yaml'} --output_dir {run_dir}_again"
        paragraphs += [
            "Or with every setting of this run, overrides included:",
            f"    accelerate launch -m empathy_trl.commands run {exact}",
        ]
    versions = ", ".join(f"{name} {number}" for name, number in evaluation["versions"].items())
    return "\n\n".join([*paragraphs, f"Versions: {versions}."])


def _files(run_dir: Path, stages: list[EvaluatedStage]) -> str:
    lines = []
    for stage in stages:
        place = stage.folder.relative_to(run_dir).as_posix()
        names = [name.format(split=stage.evaluation["data"]["split"]) for name in STAGE_FILES]
        links = [f"[{name}]({place}/{name})" for name in names if (stage.folder / name).is_file()]
        lines.append(f"- {in_markdown(stage.name)}: {', '.join(links)}")
    return "\n".join(lines)

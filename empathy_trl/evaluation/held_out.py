"""Figures while a stage is trained: its own evaluation on rows of `valid`, every so many steps (`evaluation.every`).

`HeldOutEvaluation` is a callback. It predicts and scores as an evaluation after the training does, with the weights as they
are, and logs one row for `metrics.jsonl` and the trackers:

    {"step": 50, "eval_accuracy": 0.61, "eval_accuracy_low": 0.48, "eval_accuracy_high": 0.72, …, "eval_n": 64}

Only these rows have `eval_n`; their first figure is the one to watch. The evaluation does not change the course of the training: it
restores the random states, the modes of all modules and the caches of the scorers that rewards use, and leaves TRL's averages alone.

transformers keeps the best checkpoint: `state.best_global_step` names it, it is saved and never deleted, and with
`load_best_model_at_end` its weights are loaded when the training ends. Which step is best, and how many evaluations ago, is read from
`state.log_history`, which every checkpoint holds, so a resumed run decides as an uninterrupted one does.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import IntervalStrategy
from trl.models import unwrap_model_for_generation

from empathy_trl.engine import fail_together
from empathy_trl.errors import UserError, show, suggestion
from empathy_trl.evaluation import evaluator
from empathy_trl.evaluation.evaluate import evaluated_rows, kind_of
from empathy_trl.models.label_schema import pairs_of
from empathy_trl.models.load import evaluating
from empathy_trl.models.scorer import Scorer, kept_caches
from empathy_trl.recipe.stages import fit_rows
from empathy_trl.trainers.exact_resume import generator_states, set_generator_states

logger = logging.getLogger(__name__)

SPLIT = "valid"
COUNT = "eval_n"  # key that only the rows of these evaluations have


def check_held_out(run) -> None:
    """Raise UserError if a `StageRun` cannot be evaluated while it is trained, or not by the figure that it names."""
    settings = run.stage.evaluation
    if settings.every is None:
        return
    key, names = f"stages.{run.name}.evaluation", list(run.runs)
    later = sorted(run.judging_stages - set(names[: names.index(run.name)])) if run.is_judged else []
    if later:
        raise UserError(
            f"{key}.every: its replies are judged by the model of stage {', '.join(later)}, which is trained after it; expected null"
        )
    if run.stage.is_pairwise and run.local_rows():
        rows, _ = evaluated_rows(run.stage, SPLIT, settings.rows)
        if not pairs_of(rows["context"], rows["labels"]):
            what = "replies to one context with different ratings"
            raise UserError(
                f"{key}.rows: no two of the {len(rows)} rows of {SPLIT} are {what}; expected more rows, or null for all"
            )
    choices = evaluator(kind_of(run.stage)).directions(run.stage, run.judging_rewards)
    if settings.best is not None and settings.best not in choices:
        raise UserError(f"{key}.best: unknown figure {show(settings.best)}{suggestion(settings.best, choices)}")


def plan(run, steps: int | None, available: int | None) -> str | None:
    """Return what will be evaluated while a `StageRun` is trained; None for nothing.

    Args:
        steps: of the training; None: not known.
        available: rows of the split; None: not known.
    """
    settings = run.stage.evaluation
    if settings.every is None:
        return None
    rows = min((each for each in (settings.rows, available) if each is not None), default="all")
    when = f"every {settings.every} steps"
    if steps is not None:
        count = math.ceil(steps / settings.every)
        when = f"{when}: {count} evaluations" if count > 1 else f"after the last of {steps} steps: one evaluation"
    text = f"{rows} row{'' if rows == 1 else 's'} of {SPLIT} {when}"
    if settings.best is None:
        return text
    text += f"; ends with the checkpoint that is best by {settings.best}"
    few = "one evaluation" if settings.patience == 1 else f"{settings.patience} evaluations"
    text += f", and early after {few} without a better one" if settings.patience else ""
    return text + (f"; its final figure on {SPLIT} is optimistic" if settings.split == SPLIT else "")


def add_held_out(run, trainer, folder) -> "HeldOutEvaluation | None":
    """Add a `HeldOutEvaluation` to a trainer and return it, if the recipe of a `StageRun` has `evaluation.every`.

    `folder` is the `StageFolder` of the stage.
    """
    settings = run.stage.evaluation
    if settings.every is None:
        return None
    callback = HeldOutEvaluation(run, trainer, folder)
    trainer.add_callback(callback)
    if settings.best is not None:
        trainer.args.eval_strategy = IntervalStrategy.NO  # of a label task, which would choose by its own figure
        trainer.args.metric_for_best_model, trainer.args.greater_is_better = (
            f"eval_{settings.best}",
            callback.more_is_better,
        )
        trainer.args.load_best_model_at_end = True
    return callback


class HeldOutEvaluation(TrainerCallback):
    """Evaluates a stage's model every `evaluation.every` steps and after the last one; decides which checkpoint is best.

    Args:
        run: a `StageRun`, whose recipe has `evaluation.every`.
        trainer: its trainer.
        folder: its `StageFolder`; `run.json` gets `best` when the training ends: `{"figure", "step", "value", "last_step",
            "last_value", "n", "evaluations", "kept_step"}`; `kept_step` is the step of the weights that the training ends with.

    Attributes:
        figure: the one that decides which step is best: `evaluation.best`, or the main metric.
        title: its name in plots and progress lines.
        more_is_better: whether a higher value is better.

    Raises:
        UserError: a prompt does not fit into the model; from `train()`: `evaluation.best` cannot be measured.
    """

    def __init__(self, run, trainer, folder):
        self.trainer, self.folder, self.stage, self.rewards = trainer, folder, run.resolved, run.judging_rewards
        self.settings = self.stage.evaluation
        self.evaluator = evaluator(kind_of(self.stage))
        self.figure = self.settings.best or self.evaluator.main_metric
        main = self.evaluator.main_metric_title if self.figure == self.evaluator.main_metric else None
        self.title = main or self.figure.replace("_", " ")
        self.more_is_better = self.evaluator.directions(self.stage, self.rewards)[self.figure]
        rows, index = evaluated_rows(self.stage, SPLIT, self.settings.rows)
        model, tokenizer = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
        self.rows = rows if run.is_labelled else fit_rows(self.stage, rows, SPLIT, model, tokenizer, numbers=index)[0]
        self.is_labelled, self.scorer = run.is_labelled, None

    def on_train_begin(self, args, state, control, **kwargs):
        self._stop_if_patient_enough(state, control)  # the run was killed after it had decided to stop

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.settings.every and not control.should_training_stop:
            return
        figures, is_logged_next = self._figures(), control.should_log
        # transformers' own method: TRL's would average and forget what the training has not logged yet
        Trainer.log(self.trainer, figures)
        control.should_log = is_logged_next
        if self.settings.best is None:
            return
        best = self._best(state)
        if best is not None and best["step"] == state.global_step:
            state.best_metric, state.best_global_step = best[f"eval_{self.figure}"], state.global_step
            control.should_save = True
        self._stop_if_patient_enough(state, control)

    def on_train_end(self, args, state, control, **kwargs):
        rows, best = self._rows(state), self._best(state)
        if best is None or not state.is_world_process_zero:
            return
        key, kept = f"eval_{self.figure}", state.global_step if self.settings.best is None else best["step"]
        last = {"last_step": rows[-1]["step"], "last_value": rows[-1][key]}
        about = {"n": best[COUNT], "evaluations": len(rows), "kept_step": kept}
        self.folder.save(best={"figure": self.figure, "step": best["step"], "value": best[key]} | last | about)

    def _rows(self, state) -> list[dict]:
        """Return the evaluations so far."""
        return [row for row in state.log_history if COUNT in row]

    def _best(self, state) -> dict | None:
        """Return the best evaluation so far, among equals the first one; None before the first."""
        rows = [row for row in self._rows(state) if f"eval_{self.figure}" in row]
        return (max if self.more_is_better else min)(rows, key=lambda row: row[f"eval_{self.figure}"], default=None)

    def _stop_if_patient_enough(self, state, control):
        best = self._best(state)
        if self.settings.patience is not None and best is not None:
            later = [row for row in self._rows(state) if row["step"] > best["step"]]
            if len(later) < self.settings.patience:
                return
            control.should_training_stop = True
            if state.is_world_process_zero and state.global_step < state.max_steps:
                logger.warning(
                    "stage %s ends after step %d of %d (evaluation.patience: %d): %s on %s was best at step %d",
                    self.stage.name,
                    state.global_step,
                    state.max_steps,
                    self.settings.patience,
                    self.figure,
                    SPLIT,
                    best["step"],
                )

    def _figures(self) -> dict[str, float]:
        """Evaluate the model as it is; return the row that is logged, the same in every process."""
        tokenizer, figures = self.trainer.processing_class, None
        with undisturbed(self.trainer) as model, kept_caches():
            if self.is_labelled and self.scorer is None:  # one, because it warns once of texts that are too long
                self.scorer = Scorer(model, tokenizer, "the model in training", cache_size=0)
            predictions = self.evaluator.predict(
                self.scorer or model, tokenizer, self.stage, self.rows, self.settings.batch_size
            )
            with fail_together():
                if PartialState().is_main_process:
                    figures = self._row(self.evaluator.score(self.stage, self.rows, None, predictions, self.rewards)[0])
        return broadcast_object_list([figures])[0]

    def _row(self, result: dict) -> dict[str, float]:
        """Return the figures of an evaluation's main table with their intervals, the one to watch first, and n."""
        metrics = result["metrics"]
        if self.settings.best is not None and self.figure not in metrics:
            reason = result.get("left_out", {}).get(self.figure, "no row has a value")
            raise UserError(f"stages.{self.stage.name}.evaluation.best: {self.figure} cannot be measured: {reason}")
        row = {}
        for name in dict.fromkeys([self.figure, *self.evaluator.column_titles(result)]):
            if name in metrics:
                named = {"": "value", "_low": "low", "_high": "high"}
                row |= {f"eval_{name}{ending}": float(metrics[name][key]) for ending, key in named.items()}
        return row | {COUNT: len(self.rows)}


@contextmanager
def undisturbed(trainer) -> Iterator:
    """Yield the bare model of a trainer in evaluation mode; afterwards, its modes and all random states are as they were.

    ZeRO-3, which divides the weights, gathers them in every process for the block.
    """
    states = generator_states()
    model = trainer.accelerator.unwrap_model(trainer.model)
    whole = nullcontext(model)
    if is_deepspeed_zero3_enabled():
        kwargs = trainer.args.gradient_checkpointing_kwargs
        whole = unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=kwargs
        )
    try:
        with whole as model, evaluating(model):
            yield model
    finally:
        set_generator_states(states)

"""Settings of regress and classify: those of `transformers.Trainer`, the length of a text, and for ratings the loss."""

import dataclasses
from typing import Literal

from transformers import TrainingArguments


@dataclasses.dataclass
class LabelConfig(TrainingArguments):
    """`transformers.TrainingArguments`, one field more, and the best checkpoint instead of the last.

    Whenever a checkpoint is saved (`save_strategy`, `save_steps`), the model is evaluated on the split `valid`; the
    best one by mean accuracy over the groups is kept. `save_strategy: "no"` keeps the last.

    Raises:
        ValueError: `eval_steps` is something else than `save_steps`.
    """

    max_length: int = dataclasses.field(
        default=256, metadata={"help": "Tokens of a text, or of both of a pair; longer ones lose their end."}
    )

    best_by = "accuracy_mean"

    def __post_init__(self):
        saves = str(getattr(self.save_strategy, "value", self.save_strategy)) != "no"
        if self.eval_steps not in (None, self.save_steps):
            raise ValueError(f"eval_steps: {self.eval_steps} should be save_steps ({self.save_steps}), or be left out")
        self.eval_strategy, self.eval_steps = self.save_strategy, self.save_steps
        self.load_best_model_at_end = saves
        if saves and self.metric_for_best_model is None:
            self.metric_for_best_model = self.best_by
        super().__post_init__()


@dataclasses.dataclass
class RegressConfig(LabelConfig):
    """`LabelConfig` for ratings: what is learned of them, a choice of loss, and the best checkpoint.

    It is the best by mean Pearson correlation, or for the objective "pairwise" by the share of pairs in the right order.

    Raises:
        ValueError: an unknown objective or loss, a delta that is not above 0, or label smoothing.
    """

    objective: Literal["regression", "pairwise"] = dataclasses.field(
        default="regression",
        metadata={
            "help": "The ratings themselves, or which of two replies to one context has the higher one (Bradley & Terry 1952)."
        },
    )
    loss: Literal["huber", "mse"] = dataclasses.field(
        default="huber", metadata={"help": "Squared error, or Huber's (1964), which grows linearly beyond its delta."}
    )
    huber_delta: float = dataclasses.field(
        default=0.5, metadata={"help": "Where Huber's loss turns linear, in units of the labels."}
    )

    best_by = "pearson_mean"

    def __post_init__(self):
        if self.objective not in ("regression", "pairwise"):
            raise ValueError(f"objective: {self.objective!r} should be 'regression' or 'pairwise'")
        if self.objective == "pairwise":
            self.best_by = "pair_accuracy"
        if self.loss not in ("huber", "mse"):
            raise ValueError(f"loss: {self.loss!r} should be 'huber' or 'mse'")
        if self.label_smoothing_factor:
            raise ValueError(f"label_smoothing_factor: {self.label_smoothing_factor} is for labels; ratings have none")
        if not self.huber_delta > 0:
            raise ValueError(f"huber_delta: {self.huber_delta} should be above 0")
        super().__post_init__()

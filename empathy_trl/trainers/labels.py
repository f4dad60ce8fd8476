"""What `transformers.Trainer` needs for regression and classification of texts: tokens, a loss, and figures.

`transformers.Trainer` is used as it is, through its own arguments `compute_loss_func` and `compute_metrics`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import DataCollatorWithPadding, TrainerCallback

from empathy_trl.errors import UserError
from empathy_trl.evaluation.correlations import pearson
from empathy_trl.outputs import Targets, predicted_labels


@dataclass
class LabelLoss:
    """Loss of a model with the outputs of `targets`, as `transformers.Trainer(compute_loss_func=…)` calls it.

    Ratings: squared error, or Huber's loss (Huber 1964). Labels: one cross-entropy per group. Both are means over rows
    and over ratings or groups, also where a batch is accumulated in parts.

    Args:
        targets: what the model puts out.
        loss: "huber" or "mse"; for ratings.
        huber_delta: where Huber's loss turns linear, in units of the labels.
        label_smoothing: share of the probability that is spread over all labels; for labels.
    """

    targets: Targets
    loss: str = "huber"
    huber_delta: float = 0.5
    label_smoothing: float = 0.0

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            outputs: has `logits` of shape (rows, outputs).
            labels: shape (rows, ratings or groups).
            num_items_in_batch: labels in all parts of an accumulated batch; None where this is all of it.
        """
        total = self._sum(outputs["logits"].float(), labels)
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def _sum(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.targets.task == "regress":
            if self.loss == "mse":
                return functional.mse_loss(logits, labels.float(), reduction="sum")
            return functional.huber_loss(logits, labels.float(), delta=self.huber_delta, reduction="sum")
        return sum(
            functional.cross_entropy(
                logits[:, part], labels[:, group], label_smoothing=self.label_smoothing, reduction="sum"
            )
            for group, part in enumerate(self.targets.slices().values())
        )


def label_parts(config, targets: Targets, train, valid, tokenizer) -> dict:
    """Return the arguments of `transformers.Trainer` that say what is learned: data, batches, loss and figures.

    Args:
        config: a `LabelConfig`.
        targets: what the model puts out.
        train, valid: a `datasets.Dataset` each, see `encode`.
    """
    options = {"loss": config.loss, "huber_delta": config.huber_delta} if targets.task == "regress" else {}
    return {
        "train_dataset": encode(train, tokenizer, config.max_length),
        "eval_dataset": encode(valid, tokenizer, config.max_length),
        "data_collator": DataCollatorWithPadding(tokenizer),
        "compute_loss_func": LabelLoss(targets, label_smoothing=config.label_smoothing_factor, **options),
        "compute_metrics": label_metrics(targets),
    }


def check_finite(logits: np.ndarray) -> None:
    """Raise UserError for the outputs of a training that has gone astray."""
    if not np.isfinite(logits).all():
        raise UserError(
            "the model in training gives nan or infinity; lower trainer.learning_rate or trainer.max_grad_norm, or raise "
            "trainer.warmup_steps"
        )


def label_metrics(targets: Targets) -> Callable[..., dict[str, float]]:
    """Return the function that computes the figures by which the best checkpoint is chosen.

    They are `pearson_<rating>` and `pearson_mean`, or `accuracy_<group>` and `accuracy_mean`. The function raises UserError
    for outputs that are not finite: nan has a likeliest label too, and would be the best checkpoint for ever.
    """

    def metrics(prediction) -> dict[str, float]:
        logits, labels = prediction.predictions, prediction.label_ids
        check_finite(logits)
        if targets.task == "regress":
            figure, values = "pearson", pearson(logits.T, labels.T)
        else:
            figure, values = "accuracy", (predicted_labels(logits, targets) == labels).mean(axis=0)
        named = {f"{figure}_{name}": float(value) for name, value in zip(targets.outputs, values, strict=True)}
        return named | {f"{figure}_mean": float(np.mean(values))}

    return metrics


def encode(rows, tokenizer, max_length: int):
    """Return rows as token ids without padding, with their labels.

    Args:
        rows: a `datasets.Dataset` with the columns `text`, `labels` and, where the input is a pair, `pair`.
        max_length: tokens of a text, or of both of a pair; longer ones lose their end.
    """

    def tokenize(batch: dict) -> dict:
        pairs = (batch["pair"],) if "pair" in batch else ()
        return dict(tokenizer(batch["text"], *pairs, truncation=True, max_length=max_length))

    others = [name for name in rows.column_names if name != "labels"]
    # in memory: a cached file would be found again by a hash that does not know the tokenizer's state
    return rows.map(tokenize, batched=True, remove_columns=others, keep_in_memory=True)


class MergeAdapter(TrainerCallback):
    """At the end of a LoRA training, adds the adapter to the weights: what is saved is one whole model with its head.

    A classifier is small, and an adapter would leave what its head puts out to a config that its base does not have. A
    checkpoint inside the training stays an adapter.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_end(self, args, state, control, **kwargs):
        if isinstance(self.trainer.model, PeftModel):
            self.trainer.model = self.trainer.model.merge_and_unload()


class HeldOut(TrainerCallback):
    """At the end of training, notes in the model's config how good it is on `valid`: see `held_out` in `outputs.py`.

    Measured anew, because the best checkpoint may be another one than the last that was evaluated, or none was.
    """

    def __init__(self, trainer, note: Callable[..., dict]):
        """`note`: what a prediction makes of the config, such as `held_out_labels` or `pairs.held_out_pairs`."""
        self.trainer, self.note = trainer, note

    def on_train_end(self, args, state, control, **kwargs):
        prediction = self.trainer.predict(self.trainer.eval_dataset)
        config = self.trainer.accelerator.unwrap_model(self.trainer.model).config
        for key, value in self.note(prediction, self.trainer.compute_metrics(prediction), args.best_by).items():
            setattr(config, key, value)


def held_out_labels(prediction, metrics: dict[str, float], figure: str) -> dict:
    """Return what a config says about a model of ratings or labels, measured on `valid`."""
    return {"held_out": {"figure": figure, "value": metrics[figure], "n": len(prediction.label_ids), "split": "valid"}}

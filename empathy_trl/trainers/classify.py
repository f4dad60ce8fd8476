"""Regression and classification of texts: the parts of `transformers.Trainer` for `task: regress` and `task: classify`.

`LabelConfig` and `RegressConfig` define the settings. `label_parts` returns the arguments of `transformers.Trainer`:
encoded rows, `LabelLoss` as its `compute_loss_func`, and the metrics that choose the best checkpoint as its
`compute_metrics`. `MergeAdapter` and `HeldOut` finish a training.

`task: regress` with `objective: pairwise` learns which of two replies to the same context is better; `pair_parts`
returns its arguments. The model is that of Bradley & Terry (Biometrika 39, 1952), used for reward models since
Christiano et al. (2017): reply a is better than reply b with probability sigmoid(score of a - score of b). Both replies
of a pair go through the model in one batch. An evaluation scores each reply once and compares the pairs afterwards.
"""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from peft import PeftModel
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from empathy_trl.engine import fail_together
from empathy_trl.errors import DataError, UserError, show
from empathy_trl.models.adapters import adapted, as_new, merge_adapter
from empathy_trl.models.classifier import load_classifier
from empathy_trl.models.label_schema import Targets, pairs_of, pearson, predicted_labels, right_order
from empathy_trl.models.load import whole_weights
from empathy_trl.trainers.exact_resume import WEIGHT, EpochOrderMixin, FiniteUpdatesMixin, WholeRunMixin

# With other values, the trainer computes no figure on `valid`, or computes it without the rows of the last batch
FOR_FIGURES = {
    "batch_eval_metrics": False,
    "dataloader_drop_last": False,
    "eval_do_concat_batches": True,
    "label_names": None,
    "prediction_loss_only": False,
}
ROWS_TO_COMPARE = 16  # of `valid`, adapter against merged model


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
    """Raise UserError for outputs that are nan or infinite."""
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
    """Return rows as token ids without padding, with their labels and weights.

    Args:
        rows: a `datasets.Dataset` with the columns `text`, `labels` and, where the input is a pair, `pair`.
        max_length: tokens of a text, or of both of a pair; longer ones lose their end.
    """

    def tokenize(batch: dict) -> dict:
        pairs = (batch["pair"],) if "pair" in batch else ()
        return dict(tokenizer(batch["text"], *pairs, truncation=True, max_length=max_length))

    others = [name for name in rows.column_names if name not in ("labels", WEIGHT)]
    # in memory: a cached file would be found again by a hash that does not know the tokenizer's state
    return rows.map(tokenize, batched=True, remove_columns=others, keep_in_memory=True)


class LabelTrainer(EpochOrderMixin, FiniteUpdatesMixin, WholeRunMixin, Trainer):
    """`transformers.Trainer` that stops on a loss that is not finite, and saves a merged model as it is."""

    def _save(self, output_dir=None, state_dict=None):
        # what an engine gathers after `MergeAdapter` is still the adapter
        is_merged = isinstance(self.accelerator.unwrap_model(self.model_wrapped), PeftModel) and not isinstance(
            self.model, PeftModel
        )
        super()._save(output_dir, None if is_merged else state_dict)


class MergeAdapter(TrainerCallback):
    """At the end of a LoRA training, merges the adapter into the weights, so that one complete model is saved.

    A classifier is small, and the config that describes the outputs belongs to a complete model. Checkpoints inside the
    training stay adapters. The merged model is compared with the adapter, see `merge_adapter`.

    Under FSDP and DeepSpeed, the first process merges a copy with the gathered weights, which all processes then load.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        if not isinstance(trainer.model, PeftModel):
            return
        rows = self.trainer.eval_dataset.select(range(min(ROWS_TO_COMPARE, len(self.trainer.eval_dataset))))
        inputs = [dict(self.trainer.data_collator([row])) for row in rows]
        for row in inputs:
            del row["labels"]
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            self._merge_gathered(inputs, Path(args.output_dir) / "merging")
            return
        with TemporaryDirectory(dir=args.output_dir, prefix=".merged.", suffix=".tmp") as folder:
            saved = folder if state.is_world_process_zero else None  # transformers saves in the main process only
            merged, difference = merge_adapter(self.trainer.model, inputs, name="the trained adapter", folder=saved)
        self.trainer.model = merged
        if state.is_world_process_zero:
            tqdm.write(f"adapter merged: {difference}")  # above the progress bar

    def _merge_gathered(self, inputs: list[dict], folder: Path):
        """Merge an adapter whose weights an engine holds; `folder` is for the merged model, until all have loaded it."""
        trainer = self.trainer
        weights = trainer.accelerator.get_state_dict(trainer.deepspeed or trainer.model)  # whole in the first process
        with fail_together():
            if trainer.is_world_process_zero():
                model, base = trainer.model, trainer.model.get_base_model()
                with whole_weights():
                    copied = AutoModelForSequenceClassification.from_config(base.config, dtype=base.dtype)
                copied = adapted(copied, as_new(model.active_peft_config))
                copied.load_state_dict(weights)
                _, difference = merge_adapter(copied, inputs, name="the trained adapter", folder=folder)
                trainer.processing_class.save_pretrained(folder)
                tqdm.write(f"adapter merged: {difference}")
        merged, _ = load_classifier(str(folder))
        trainer.model = merged.to(trainer.args.device)
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            shutil.rmtree(folder)


class HeldOut(TrainerCallback):
    """At the end of training, writes the figure on `valid` into the model's config: see `held_out` in `label_schema`.

    The figure is measured again, because the best checkpoint may not be the last that was evaluated.
    """

    def __init__(self, trainer, note: Callable[..., dict]):
        """`note` returns entries of the config for a prediction: `held_out_labels` or `held_out_pairs`."""
        self.trainer, self.note = trainer, note

    def on_train_end(self, args, state, control, **kwargs):
        prediction = self.trainer.predict(self.trainer.eval_dataset)
        config = self.trainer.accelerator.unwrap_model(self.trainer.model).config
        for key, value in self.note(prediction, self.trainer.compute_metrics(prediction), args.best_by).items():
            setattr(config, key, value)


def held_out_labels(prediction, metrics: dict[str, float], figure: str) -> dict:
    """Return what a config says about a model of ratings or labels, measured on `valid`."""
    return {"held_out": {"figure": figure, "value": metrics[figure], "n": len(prediction.label_ids), "split": "valid"}}


@dataclasses.dataclass
class LabelConfig(TrainingArguments):
    """`transformers.TrainingArguments`, one field more, and the best checkpoint instead of the last.

    Whenever a checkpoint is saved (`save_strategy`, `save_steps`), the model is evaluated on the split `valid`; the
    best one by mean accuracy over the groups is kept. `save_strategy: "no"` keeps the last.

    Raises:
        ValueError: `eval_steps` is something else than `save_steps`, or a setting prevents figures on all of `valid`.
    """

    max_length: int = dataclasses.field(
        default=256, metadata={"help": "Tokens of a text, or of both of a pair; longer ones lose their end."}
    )

    best_by = "accuracy_mean"

    def __post_init__(self):
        saves = str(getattr(self.save_strategy, "value", self.save_strategy)) != "no"
        if self.eval_steps not in (None, self.save_steps):
            raise ValueError(f"eval_steps: {self.eval_steps} should be save_steps ({self.save_steps}), or be left out")
        for name, needed in FOR_FIGURES.items():
            if (value := getattr(self, name)) != needed:
                raise ValueError(
                    f"{name}: {show(value)} prevents the figures on all rows of `valid`, by which the best checkpoint is "
                    f"chosen; expected {show(needed)}"
                )
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
        ValueError: an unknown objective or loss, a delta that is not above 0, label smoothing, or pairs grouped by length.
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
        if self.objective == "pairwise" and self.loss != RegressConfig.loss:
            raise ValueError(
                f"loss: {self.loss!r} has no effect with objective pairwise, whose loss is that of pairs; leave it out"
            )
        if self.objective == "pairwise" and self.train_sampling_strategy == "group_by_length":
            raise ValueError(
                "train_sampling_strategy: 'group_by_length' is not supported with objective pairwise, because each row of a "
                "batch is two replies; leave it out"
            )
        if self.huber_delta != RegressConfig.huber_delta and (self.loss, self.objective) != ("huber", "regression"):
            raise ValueError(
                f"huber_delta: {self.huber_delta} has no effect without objective regression and loss huber; leave it out"
            )
        super().__post_init__()


class PairDataset(torch.utils.data.Dataset):
    """Pairs (better, worse) of encoded replies; a reply that is in several pairs is kept once.

    Args:
        replies: token ids, a `datasets.Dataset`.
        pairs: row numbers.
    """

    def __init__(self, replies, pairs: list[tuple[int, int]]):
        self.replies, self.pairs = replies, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[dict, dict]:
        better, worse = self.pairs[index]
        return self.replies[better], self.replies[worse]


class PairCollator(DataCollatorWithPadding):
    """`DataCollatorWithPadding`, which for pairs makes one batch of all better replies and then all worse ones.

    Its `labels` are then one 0 per pair: the loss does not read them, but the trainer counts them.
    """

    def __call__(self, features: list) -> dict:
        if not isinstance(features[0], tuple):
            return super().__call__(features)
        better, worse = zip(*features, strict=True)
        batch = super().__call__([*better, *worse])
        batch["labels"] = torch.zeros(len(features), dtype=torch.long)
        return batch


def pair_loss(outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
    """Return the mean of -log sigmoid(better - worse), as `transformers.Trainer(compute_loss_func=…)` calls it.

    Args:
        outputs: has `logits`: of shape (2 × pairs, 1), the better ones first, or for evaluation of shape (rows, 1).
        labels: of shape (pairs,), or for evaluation (rows, 2), see `comparable_rows`. The loss is then that of the pairs
            that happen to be in one batch, 0 where there is none: it is logged, and nothing depends on it.
        num_items_in_batch: pairs in all parts of an accumulated batch; None where this is all of it.
    """
    scores = outputs["logits"].float().squeeze(-1)
    if labels.ndim == 1:
        better, worse = scores.chunk(2)
        losses = -functional.logsigmoid(better - worse)
        return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
    ratings, contexts = labels.unbind(1)
    pairs = (contexts[:, None] == contexts) & (ratings[:, None] > ratings)
    losses = -functional.logsigmoid(scores[:, None] - scores)[pairs]
    return losses.sum() / max(1, len(losses))


def pair_parts(config, targets, train, valid, tokenizer) -> dict:
    """Return the arguments of `transformers.Trainer` that say what is learned, as `label_parts` does.

    Raises:
        DataError: a split has no pair.
    """
    replies = encode(train, tokenizer, config.max_length).remove_columns("labels")
    some_pairs(valid, "valid")
    return {
        "train_dataset": PairDataset(replies, some_pairs(train, "train")),
        "eval_dataset": encode(comparable_rows(valid), tokenizer, config.max_length),
        "data_collator": PairCollator(tokenizer),
        "compute_loss_func": pair_loss,
        "compute_metrics": pair_metrics,
    }


def some_pairs(rows, split: str) -> list[tuple[int, int]]:
    """Return `pairs_of` the rows of a split. Raises `DataError` when there is none."""
    pairs = pairs_of(rows["context"], rows["labels"])
    if not pairs:
        raise DataError(
            f"{split}: no two of the {len(rows)} replies have the same context and different ratings, so there is nothing to "
            "compare; objective: regression needs no pairs"
        )
    return pairs


def comparable_rows(rows):
    """Return rows whose labels are (rating, number of the context), so that predictions alone can be compared."""
    numbers = {context: number for number, context in enumerate(dict.fromkeys(rows["context"]))}
    labels = [[rating, numbers[context]] for (rating,), context in zip(rows["labels"], rows["context"], strict=True)]
    return rows.remove_columns("labels").add_column("labels", labels)


def pair_metrics(prediction) -> dict[str, float]:
    """Return the figure by which the best checkpoint is chosen, `pair_accuracy`; see `label_metrics`."""
    check_finite(prediction.predictions)
    return {"pair_accuracy": float(np.mean(right_order(prediction.predictions[:, 0], _pairs(prediction))))}


def held_out_pairs(prediction, metrics: dict[str, float], figure: str) -> dict:
    """Return what a config says about a model of pairs, measured on `valid`; n counts pairs."""
    scores = prediction.predictions.astype(float)
    held_out = {"figure": figure, "value": metrics[figure], "n": len(_pairs(prediction)), "split": "valid"}
    return {"held_out": held_out, "score_moments": {"mean": float(scores.mean()), "std": float(scores.std())}}


def _pairs(prediction) -> list[tuple[int, int]]:
    ratings, contexts = prediction.label_ids.T
    return pairs_of(contexts.tolist(), ratings)

"""Pairwise reward models: what `transformers.Trainer` needs to learn which of two replies to one context is better.

The model is that of Bradley & Terry (Biometrika 39, 1952), used for reward models since Christiano et al. (2017): reply a is
better than reply b with probability sigmoid(score of a - score of b). Both replies of a pair go through the model in one
batch. In an evaluation, each reply is scored once, and the pairs are compared afterwards.
"""

import numpy as np
import torch
from torch.nn import functional
from transformers import DataCollatorWithPadding

from empathy_trl.errors import DataError
from empathy_trl.models.label_schema import pairs_of, right_order
from empathy_trl.trainers.classify import check_finite, encode


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

    Its `labels` are then one 0 per pair: there is nothing to say, but the trainer counts them.
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
    """Return the arguments of `transformers.Trainer` that say what is learned, as `classify.label_parts` does.

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
    """Return the figure by which the best checkpoint is chosen, `pair_accuracy`; see `classify.label_metrics`."""
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

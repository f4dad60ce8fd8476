"""Supervised fine-tuning of encoder-decoders: what `transformers.Seq2SeqTrainer` needs for `prompt` and `completion`.

`Seq2SeqTrainer` is used as it is, through its own arguments. T5's forward pass averages its loss over each micro-batch by
itself, which with accumulation would count micro-batches instead of tokens; `CompletionLoss` is handed in for that.
"""

import copy
import dataclasses
import logging

import torch
from torch.nn import functional
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainingArguments
from trl import SFTConfig

from empathy_trl.models.load import decoder_settings

logger = logging.getLogger(__name__)

IGNORED = -100  # the label of padding


@dataclasses.dataclass
class Seq2SeqConfig(SFTConfig, Seq2SeqTrainingArguments):
    """`trl.SFTConfig` for `transformers.Seq2SeqTrainer`: the same keys and defaults, without what is for one sequence.

    `max_length` is the limit of a prompt and of a completion, each for itself; see `encode`.

    Raises:
        ValueError: a setting that only decoders have a use for, such as `packing`.
    """

    def __post_init__(self):
        for key, message in decoder_settings(vars(self), SFTConfig):
            raise ValueError(f"{key}: {message}")
        super().__post_init__()


@dataclasses.dataclass
class CompletionLoss:
    """Cross-entropy of the completion's tokens, as `transformers.Trainer(compute_loss_func=…)` calls it.

    Args:
        label_smoothing: share of the probability that is spread over the vocabulary.
    """

    label_smoothing: float = 0.0

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """Return the mean over tokens, a scalar.

        Args:
            outputs: has `logits` of shape (rows, completion length, vocabulary).
            labels: shape (rows, completion length); -100 for padding.
            num_items_in_batch: tokens in all parts of an accumulated batch; None where this is all of it.
        """
        total = functional.cross_entropy(
            outputs["logits"].float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


def encode(rows, tokenizer, max_length: int | None):
    """Return rows as the encoder's `input_ids` and the decoder's `labels`, without padding.

    A completion ends with the tokenizer's end token, which its template does not write: the model has to learn to stop.

    Args:
        rows: a `datasets.Dataset` with conversational `prompt` and `completion`.
        max_length: tokens of a prompt and of a completion, or None for any number. A longer prompt loses its beginning,
            the oldest text; a longer completion its end. How many do is logged.
    """
    limit = max_length or None
    cut = {"prompt": 0, "completion": 0}

    def tokenize(row: dict) -> dict[str, list[int]]:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        text = "".join(message["content"] for message in row["completion"])
        completion = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for name, ids in (("prompt", prompt), ("completion", completion)):
            cut[name] += limit is not None and len(ids) > limit
        return {"input_ids": prompt[-limit:] if limit else prompt, "labels": completion[:limit]}

    # in memory: a cached file would be found again by a hash that does not know the tokenizer's state
    encoded = rows.map(tokenize, remove_columns=rows.column_names, keep_in_memory=True)
    for name, number in cut.items():
        if number:
            end = "beginning" if name == "prompt" else "end"
            logger.warning("max_length %d: %d of %d %ss lose their %s", limit, number, len(rows), name, end)
    return encoded


def collator(tokenizer, model, pad_to_multiple_of: int | None = None) -> DataCollatorForSeq2Seq:
    """Return the collator that pads a batch to its longest prompt and completion, on the right, whatever the tokenizer's side.

    Args:
        model: makes the decoder's inputs from the labels.
    """
    right = copy.deepcopy(tokenizer)
    right.padding_side = "right"
    return DataCollatorForSeq2Seq(right, model=model, pad_to_multiple_of=pad_to_multiple_of, label_pad_token_id=IGNORED)

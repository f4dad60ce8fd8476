"""Training encoder-decoders such as T5: supervised fine-tuning, GRPO and PPO.

SFT uses `transformers.Seq2SeqTrainer` through its own arguments: `encode` makes its rows, `collator` its batches, and
`Seq2SeqConfig` has its settings. `CompletionLoss` averages over tokens. The loss of T5's forward pass is a mean over a
micro-batch, so gradient accumulation would give every micro-batch the same weight.

In GRPO and PPO, the encoder reads the prompt and the decoder writes the completion. TRL's trainers expect one sequence
for both. `trainer_class` adds `EncoderDecoderMixin` to a trainer, which overrides two methods of `trl.GRPOTrainer`
1.16:

| method | what it does instead |
|---|---|
| `_generate_single_turn` | `generate` returns what TRL expects, the prompt followed by the decoder's tokens; it uses only the trainer's settings, not the beams and rules in the model's generation config |
| `_get_per_token_logps_and_entropies` | one teacher-forced pass: prompt into the encoder, completion into the decoder |

Rewards, advantages, loss, reference model, adapters and resume are the parents'. Prompts are padded on the right,
because encoders with absolute positions (BART) count padding. `tests/trainers/test_seams.py` pins the parents' methods.
"""

import copy
import dataclasses
from functools import partial
from unittest.mock import patch

import torch
from torch.nn import functional
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments
from trl import SFTConfig
from trl.trainer.utils import selective_log_softmax_and_entropy

from empathy_trl.errors import UserError
from empathy_trl.models.batching import prompt_tokens
from empathy_trl.models.load import decoder_settings, start_token, without_generation_defaults
from empathy_trl.trainers.exact_resume import WEIGHT, EpochOrderMixin, FiniteUpdatesMixin, WholeRunMixin
from empathy_trl.trainers.grpo import EmpathyGRPOTrainer

IGNORED = -100  # the label of padding


@dataclasses.dataclass
class Seq2SeqConfig(SFTConfig, Seq2SeqTrainingArguments):
    """`trl.SFTConfig` for `transformers.Seq2SeqTrainer`: the same keys and defaults.

    `max_length` limits prompt and completion separately; see `encode`.

    Raises:
        ValueError: a setting for decoders, such as `packing`.
    """

    def __post_init__(self):
        for key, message in decoder_settings(vars(self), SFTConfig):
            raise ValueError(f"{key}: {message}")
        super().__post_init__()


class EmpathySeq2SeqTrainer(EpochOrderMixin, FiniteUpdatesMixin, WholeRunMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` that stops on a loss that is not finite."""


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
            the oldest text; a longer completion its end. `models.limits.truncation` counts them.
    """
    limit = max_length or None

    def tokenize(row: dict) -> dict[str, list[int]]:
        (prompt,) = prompt_tokens(tokenizer, [row["prompt"]])
        text = "".join(message["content"] for message in row["completion"])
        completion = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return {"input_ids": prompt[-limit:] if limit else prompt, "labels": completion[:limit]}

    # in memory: a cached file would be found again by a hash that does not know the tokenizer's state
    others = [name for name in rows.column_names if name != WEIGHT]
    return rows.map(tokenize, remove_columns=others, keep_in_memory=True)


def collator(tokenizer, model, pad_to_multiple_of: int | None = None) -> DataCollatorForSeq2Seq:
    """Return the collator that pads a batch to its longest prompt and completion, always on the right.

    Args:
        model: makes the decoder's inputs from the labels.
    """
    right = copy.deepcopy(tokenizer)
    right.padding_side = "right"
    return DataCollatorForSeq2Seq(right, model=model, pad_to_multiple_of=pad_to_multiple_of, label_pad_token_id=IGNORED)


def trainer_class(base: type, model) -> type:
    """Return the trainer class for a model: `base`, or for an encoder-decoder `base` with the mixin.

    The mixin comes right before `EmpathyGRPOTrainer`, so that the methods which PPO extends are below PPO in both cases.

    Args:
        base: `EmpathyGRPOTrainer` or a subclass of it.
        model: a transformers model, or an adapter on one.
    """
    if not model.config.is_encoder_decoder:
        return base
    on_top = () if base is EmpathyGRPOTrainer else (base,)
    bases = (*on_top, EncoderDecoderMixin, EmpathyGRPOTrainer)
    return type(f"EncoderDecoder{base.__name__}", bases, {"__doc__": EncoderDecoderMixin.__doc__})


class EncoderDecoderMixin:
    """Put before `EmpathyGRPOTrainer`: trains an encoder-decoder such as T5, whose prompts the encoder reads.

    Decoder position t reads completion token t - 1, at first the start token, and predicts token t: the decoder's hidden
    states line up with the completion one to one. `_forward_teacher` is one call of the model for each chunk of rows, so a
    forward hook on `model.get_decoder()` sees them, of shape (rows, completion length, hidden size).

    Raises:
        UserError: a setting that is for decoders only, such as `use_vllm`.
    """

    def __init__(self, model, reward_funcs=None, args=None, *others, **kwargs):
        for key, message in decoder_settings(vars(args), type(args)) if args is not None else ():
            raise UserError(f"trainer.{key}: {message}")  # before the parent starts vLLM
        super().__init__(model, reward_funcs, args, *others, **kwargs)

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        model = self._bare(self.model)
        generate = partial(generate_behind_prompt, model.generate)
        # the log-probabilities of the loss know nothing of beams or of tokens that were forced
        with patch.object(model, "generate", generate), without_generation_defaults(model):
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **multimodal,
    ):
        parts = [x.split([x.shape[1] - logits_to_keep, logits_to_keep], dim=1) for x in (input_ids, attention_mask)]
        (prompts, completions), (prompt_masks, completion_masks) = parts
        rows = batch_size or len(input_ids)
        chunks = zip(*(x.split(rows) for x in (prompts, prompt_masks, completions, completion_masks)), strict=True)
        logps, entropies = zip(*(self._score_completions(model, *chunk) for chunk in chunks), strict=True)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _score_completions(self, model, prompt_ids, prompt_mask, completion_ids, completion_mask):
        """Return log-probabilities at the sampling temperature, and entropies, shape (rows, completion length)."""
        with self.accelerator.autocast():
            outputs = self._forward_teacher(model, prompt_ids, prompt_mask, completion_ids, completion_mask)
        log_probs, entropies = selective_log_softmax_and_entropy(
            outputs.logits.float(),
            completion_ids,
            entropy_requires_grad=self._entropy_bonus_enabled,
            temperature=self.temperature,
            row_mask=completion_mask,
        )
        # a critic's values travel beside the log-probabilities, see `trainers.critic`
        if (values := outputs.get("token_values")) is not None:
            log_probs = torch.stack([log_probs, values], dim=-1)
        return log_probs, entropies

    def _forward_teacher(self, model, prompt_ids, prompt_mask, completion_ids, completion_mask):
        """Return the model's outputs for given completions; `logits` has the shape (rows, completion length, vocabulary).

        Args:
            model: the policy or its reference, with or without wrappers.
            prompt_ids, prompt_mask: shape (rows, prompt length), padded on either side.
            completion_ids, completion_mask: shape (rows, completion length), padded on the right. What is padding needs no
                mask in the decoder, where nothing looks ahead; the mask is for those who override this.
        """
        ids, mask = pad_right(prompt_ids, prompt_mask)
        start = completion_ids.new_full((len(completion_ids), 1), start_token(self._bare(model)))
        return model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=torch.cat([start, completion_ids[:, :-1]], dim=1),
            use_cache=False,
        )


def pad_right(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask with each row's padding behind its tokens, without columns that are padding in every row.

    Args:
        ids, mask: shape (rows, length); the mask is 1 for a token and 0 for padding.
    """
    order = mask.argsort(dim=1, descending=True, stable=True)
    width = int(mask.sum(dim=1).max().clamp(min=1))
    return ids.gather(1, order)[:, :width], mask.gather(1, order)[:, :width]


def generate_behind_prompt(generate, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options) -> torch.Tensor:
    """Call an encoder-decoder's `generate`; return each prompt as it came in, and behind it what the decoder wrote.

    Args:
        generate: the model's own method.
        input_ids, attention_mask: shape (rows, prompt length), padded on either side.

    Returns:
        Shape (rows, prompt length + new tokens), without the decoder's start token.
    """
    ids, mask = pad_right(input_ids, attention_mask)
    return torch.cat([input_ids, generate(input_ids=ids, attention_mask=mask, **options)[:, 1:]], dim=1)

"""Trainers that compute a prompt once for all its completions, in generation and in every log-probability pass.

TRL repeats a prompt once per completion. With long prompts and short completions most of the work is repetition. The
mixin overrides these seams of `trl.GRPOTrainer` 1.16:

| seam | what it does instead |
|---|---|
| `_get_per_token_logps_and_entropies` | packs the rows of a batch behind one copy of each prompt (policy, old and reference pass) |
| `_prepare_inputs` | shuffles a generation batch by whole groups, so that rows with one prompt stay in one micro-batch |
| `_generate_single_turn` | decodes the completions of a prompt beside each other, over one copy of its cache |
| `_tokenize_prompts` | tokenizes a repeated prompt once |

All are exact: the same log-probabilities, gradients and, for the same seed, the same completions, up to the rounding of
sums in another order. The first use of each of the two model paths compares itself with the usual one on real prompts
and switches itself off, with a warning, when they differ.
"""

import logging
import math
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from transformers.generation import GenerationMode
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.extras.profiling import profiling_context
from trl.trainer import grpo_trainer

from empathy_trl.errors import UserError
from empathy_trl.shared_prefix.attention import install, unsupported
from empathy_trl.shared_prefix.generation import decoding_error, sample
from empathy_trl.shared_prefix.packing import PackedBatch, pack, trim

logger = logging.getLogger(__name__)

# Largest mean difference of log-probabilities that is still rounding. Masks that are wrong miss by a tenth and more.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Packing costs some bookkeeping: it is worth it when at most this share of a batch's tokens is left.
WORTH_IT = 0.9


class SharedPrefixMixin:
    """Put before `trl.GRPOTrainer`: prompts are computed once per group, as `args.shared_prefix` says (default auto).

    Raises:
        UserError: `shared_prefix` is true and the model cannot share prompts.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        shares = self._prepare_models(getattr(self.args, "shared_prefix", "auto"))
        self._shares = {"log-probabilities": shares, "generation": shares}
        self._verified = set()
        self._said = set()

    def _prepare_models(self, setting: bool | str) -> bool:
        if setting is False:
            return False
        models = [self._bare(model) for model in (self.model, self.ref_model) if model is not None]
        reason = next(filter(None, map(unsupported, models)), "it reads images" if self._is_vlm else None)
        if reason is None:
            for model in models:
                install(model)
        elif setting is True:
            raise UserError(
                f"trainer.shared_prefix: true, but this model cannot share prompts: {reason}. Set auto or false"
            )
        else:
            self._say_once("shared_prefix: off, because of the model: %s", reason)
        return reason is None

    def _bare(self, model):
        """Return the transformers model inside distributed wrappers and PEFT."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _say_once(self, message: str, *args):
        if message not in self._said:
            self._said.add(message)
            logger.warning(message, *args)

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
        plain = partial(
            super()._get_per_token_logps_and_entropies, model, compute_entropy=compute_entropy, **multimodal
        )
        has_images = any(value is not None for value in multimodal.values())
        # the balance of a router is measured over the tokens of a batch, which packing would make fewer
        if not self._shares["log-probabilities"] or has_images or compute_aux_loss:
            return plain(input_ids, attention_mask, logits_to_keep, batch_size, compute_aux_loss=compute_aux_loss)
        chunks = []
        for ids, mask in zip(*(x.split(batch_size or len(x)) for x in (input_ids, attention_mask)), strict=True):
            packed = pack(ids, mask, logits_to_keep)
            self._verify_scores(model, packed, partial(plain, ids, mask, logits_to_keep))
            ids, mask, width = trim(ids, mask, logits_to_keep)
            if self._shares["log-probabilities"] and packed.tokens <= WORTH_IT * ids.numel():
                chunks.append(self._score(model, packed))
            else:
                self._say_once("shared_prefix: prompts are not shared where that would not save a tenth of the tokens")
                scores = plain(ids, mask, width)[:2]
                chunks.append([x if x is None else F.pad(x, (0, logits_to_keep - width)) for x in scores])
        logps, entropies = zip(*chunks, strict=True)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _score(self, model, packed: PackedBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return log-probabilities and entropies of shape (rows, completion_length); a reference model has no entropies."""
        with profiling_context(self, "shared_prefix"), self.accelerator.autocast():
            outputs = self._forward_packed(model, packed)
        return packed.unpack(outputs.log_probs), None if outputs.entropy is None else packed.unpack(outputs.entropy)

    def _forward_packed(self, model, packed: PackedBatch):
        """Run the model on a packed batch; the place for a value head, with `packed.unpack` for its hidden states."""
        return model(**packed.inputs, fused_lm_head=True)

    def _prepare_inputs(self, generation_batch):
        rows = math.gcd(self.num_generations, self.args.per_device_train_batch_size)
        with shuffling_blocks(rows if self._shares["log-probabilities"] else 1):
            return super()._prepare_inputs(generation_batch)

    def _tokenize_prompts(self, prompts):
        if self._is_vlm or self.environment_factories is not None:
            return super()._tokenize_prompts(prompts)
        starts = [row for row in range(len(prompts)) if row == 0 or prompts[row] != prompts[row - 1]]
        ids, *rest = super()._tokenize_prompts([prompts[row] for row in starts])
        repeats = [stop - start for start, stop in pairwise([*starts, len(prompts)])]
        return [row for row, times in zip(ids, repeats, strict=True) for _ in range(times)], *rest

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        model = self._bare(self.model)
        if self._shares["generation"] and self._generates_plainly():
            self._verify_generation(model, prompt_ids[0])
        if not self._shares["generation"] or not self._generates_plainly():
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        model.generate = partial(model.generate, custom_generate=sample)
        try:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        finally:
            del model.generate  # the instance's; the class has the usual one

    def _generates_plainly(self) -> bool:
        """Whether TRL would call transformers' `generate` for sampling or greedy decoding, on a model that is in one piece."""
        config = self.generation_config
        sharded = is_deepspeed_zero3_enabled() or self.is_fsdp_enabled
        plain_mode = config.get_generation_mode() in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH)
        plain_cache = config.use_cache is not False and config.cache_implementation in (None, "dynamic")
        return (
            plain_mode and plain_cache and not (self.use_vllm or self.use_transformers_continuous_batching or sharded)
        )

    @torch.no_grad()
    def _verify_scores(self, model, packed: PackedBatch, plain: Callable):
        if "log-probabilities" not in self._verified:
            with evaluating(model):
                self._judge("log-probabilities", (self._score(model, packed)[0] - plain()[0])[packed.scored])

    def _verify_generation(self, model, prompt: list[int]):
        if "generation" not in self._verified:
            with evaluating(model):
                self._judge("generation", decoding_error(model, torch.tensor(prompt, device=self.accelerator.device)))

    def _judge(self, what: str, errors: torch.Tensor):
        """Switch sharing off for one use when its errors are more than rounding, in all processes alike."""
        self._verified.add(what)
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self._bare(self.model).dtype
        mean = errors.float().abs().sum() / max(1, errors.numel())
        error, limit = self.accelerator.gather(mean).max().item(), TOLERANCE[dtype]
        if not error <= limit:  # nan is a difference too
            self._shares[what] = False
            self._say_once(
                "shared_prefix: off for %s, because they differ from the usual path by %.2g on average (at most %.2g is "
                "rounding in %s); please report the model's architecture",
                *(what, error, limit, str(dtype).removeprefix("torch.")),
            )


@contextmanager
def evaluating(model):
    """Switch dropout off for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def shuffling_blocks(rows: int):
    """Let TRL shuffle a generation batch by blocks of rows, drawing as many random numbers as it does for single rows."""
    usual = grpo_trainer.shuffle_sequence_dict
    grpo_trainer.shuffle_sequence_dict = partial(shuffle_blocks, rows=rows)
    try:
        yield
    finally:
        grpo_trainer.shuffle_sequence_dict = usual


def shuffle_blocks(sequences: dict, rows: int) -> dict:
    """Permute all sequences alike along their first dimension, keeping every `rows` neighbours together and in order.

    Args:
        sequences: name to a tensor or list whose length is a multiple of `rows`; None and 0-d tensors stay as they are.
    """
    length = len(next(value for value in sequences.values() if value is not None))
    permutation = torch.randperm(length)
    blocks = dict.fromkeys((permutation // rows).tolist())  # in the order in which their first rows came up
    order = torch.cat([torch.arange(rows) + block * rows for block in blocks])

    def permute(value):
        if value is None or (isinstance(value, torch.Tensor) and value.dim() == 0):
            return value
        return value[order] if isinstance(value, torch.Tensor) else [value[row] for row in order]

    return {name: permute(value) for name, value in sequences.items()}

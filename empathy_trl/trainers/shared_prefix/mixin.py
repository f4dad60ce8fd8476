"""`SharedPrefixMixin`: a trainer computes a prompt once for all its completions.

TRL repeats a prompt once per completion, in generation and in every log-probability pass. With long prompts and short
completions, most of the work is repetition. The mixin overrides these methods of `trl.GRPOTrainer` 1.16:

| method | what it does instead |
|---|---|
| `_get_per_token_logps_and_entropies` | packs the rows of a batch behind one copy of each prompt |
| `_prepare_inputs` | keeps the rows of an optimizer step in order, so that groups stay together in micro-batches |
| `_generate_single_turn` | decodes the completions of a prompt side by side, over few copies of its cache |
| `_tokenize_prompts` | tokenizes a repeated prompt once |

Log-probabilities, gradients and, for the same seed, completions are those of TRL, up to rounding. Two things differ:
the values that TRL computes per micro-batch (the loss `bnpo`, `top_entropy_quantile`, the logged KL), and dropout,
which is applied to a prompt once instead of once per completion. At its first use, each of the two model paths is
compared with TRL's on real prompts. If they differ, it is switched off with a warning.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from unittest.mock import patch

import torch
import torch.nn.functional as F
from transformers.generation import GenerationMode
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.extras.profiling import profiling_context
from trl.trainer import grpo_trainer

from empathy_trl.models.load import evaluating
from empathy_trl.trainers.shared_prefix.decoding import sample, shared_log_probs, usual_log_probs
from empathy_trl.trainers.shared_prefix.packing import (
    COMPILED,
    PackedBatch,
    decide,
    install,
    pack,
    require_all_layers,
    trim,
    unsupported,
)

logger = logging.getLogger(__name__)

# A mean difference of log-probabilities that no training notices; in float32, rounding changes less
NEGLIGIBLE = 1e-4
# Packing costs some bookkeeping: it is worth it when at most this share of a batch's tokens is left.
WORTH_IT = 0.9


class SharedPrefixMixin:
    """Put before `trl.GRPOTrainer`: prompts are computed once per group, as `args.shared_prefix` says (default auto).

    Raises:
        UserError: `shared_prefix` is true and the model cannot share prompts.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._verified, self._warned = set(), set()
        shares = self._prepare_models(getattr(self.args, "shared_prefix", "auto"))
        self._shares = {"log-probabilities": shares, "generation": shares}

    def _prepare_models(self, setting: bool | str) -> bool:
        if setting is False:
            return False
        models = [self._bare(model) for model in (self.model, self.ref_model) if model is not None]
        reason = self._reason_against() or next(filter(None, map(unsupported, models)), None)
        if not decide(setting, reason, "trainer.shared_prefix"):
            self._warn_once("shared_prefix: off: %s", reason)
            return False
        for model in models:
            install(model)
        return True

    def _reason_against(self) -> str | None:
        if self._is_vlm:
            return "the model reads images"
        adapters = getattr(self.accelerator.unwrap_model(self.model), "peft_config", {})
        if any(adapter.is_prompt_learning for adapter in adapters.values()):
            return "the adapter adds its own prompt before every row"
        if self.args.torch_compile:
            return COMPILED
        parallel = getattr(self.accelerator, "parallelism_config", None)
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            return "a sequence is split over several devices"
        return None

    def _bare(self, model):
        """Return the transformers model inside distributed wrappers and PEFT."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _readers(self, model) -> list:
        """Return the models that read a packed batch when `model` is called."""
        return [self._bare(model)]

    def _warn_once(self, message: str, *args):
        if (message, *args) not in self._warned:
            self._warned.add((message, *args))
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
        can_share = not has_images and not compute_aux_loss
        if compute_aux_loss and self._shares["log-probabilities"]:
            self._warn_once(
                "shared_prefix: off for the loss: a router's balance is measured over repeated prompts, too"
            )
        chunks = list(zip(*(x.split(batch_size or len(x)) for x in (input_ids, attention_mask)), strict=True))
        if can_share:
            self._verify_scores(model, *chunks[0], logits_to_keep, plain)
        if not can_share or not self._shares["log-probabilities"]:
            return plain(input_ids, attention_mask, logits_to_keep, batch_size, compute_aux_loss=compute_aux_loss)
        logps, entropies = zip(
            *(self._score_chunk(model, *chunk, logits_to_keep, plain) for chunk in chunks), strict=True
        )
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _score_chunk(self, model, ids, mask, logits_to_keep, plain) -> list[torch.Tensor | None]:
        """Return log-probabilities and entropies, packed where that pays, otherwise without the columns of padding."""
        packed = pack(ids, mask, logits_to_keep)
        if packed.tokens <= WORTH_IT * packed.plain_tokens:
            return self._score(model, packed)
        self._warn_once("shared_prefix: prompts are not shared if that saves less than a tenth of the tokens")
        *trimmed, width = trim(ids, mask, logits_to_keep)
        return [x if x is None else pad_tokens(x, logits_to_keep - width) for x in plain(*trimmed, width)[:2]]

    def _score(self, model, packed: PackedBatch) -> list[torch.Tensor | None]:
        """Return log-probabilities and entropies, shape (rows, completion_length); a reference model has no entropy."""
        with profiling_context(self, "shared_prefix"), self.accelerator.autocast():
            outputs = model(**packed.inputs, fused_lm_head=True)
        return [x if x is None else packed.unpack(x) for x in (outputs.log_probs, outputs.entropy)]

    def _prepare_inputs(self, generation_batch):
        steps = min(self.args.gradient_accumulation_steps, self.args.steps_per_generation)
        rows = self.args.per_device_train_batch_size * steps
        shuffle = partial(shuffle_between_steps, rows=rows if self._shares["log-probabilities"] else 1)
        with patch.object(grpo_trainer, "shuffle_sequence_dict", shuffle):
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
        plain = self._shares["generation"] and self._generates_plainly(model)
        if plain:
            self._verify_generation(model, prompt_ids[0])
        if plain and self._shares["generation"]:
            with patch.object(model, "generate", partial(model.generate, custom_generate=sample)):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def _generates_plainly(self, model) -> bool:
        """Whether TRL would call transformers' `generate` for sampling or greedy decoding, on a model in one piece."""
        sharded = is_deepspeed_zero3_enabled() or self.is_fsdp_enabled
        if self.use_vllm or self.use_transformers_continuous_batching or sharded:
            return False
        # transformers fills in what TRL leaves open from the model's own settings, which may ask for beams
        config, _ = model._prepare_generation_config(self.generation_config)
        plain_mode = config.get_generation_mode() in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH)
        return plain_mode and config.num_return_sequences == 1 and config.use_cache and not config.cache_implementation

    @torch.no_grad()
    def _verify_scores(self, model, ids, mask, logits_to_keep, plain):
        scored = mask[:, -logits_to_keep:].bool()

        def usual():
            # one more column of padding shows whether the usual path counts padding as positions, as GPT-2 does
            return plain(F.pad(ids, (1, 0)), F.pad(mask, (1, 0)), logits_to_keep)[0][scored][:, None]

        def shared():
            packed = pack(ids, mask, logits_to_keep)
            logps, layout = self._score(model, packed)[0], packed.inputs["shared_prefix"]
            require_all_layers(layout, *self._readers(model))
            return logps[scored][:, None], layout.dtype

        self._verify("log-probabilities", model, usual, shared)

    def _verify_generation(self, model, prompt: list[int]):
        ids = torch.tensor(prompt, device=self.accelerator.device)
        self._verify("generation", model, partial(usual_log_probs, model, ids), partial(shared_log_probs, model, ids))

    def _verify(self, use: str, model, usual: Callable, shared: Callable):
        """Before the first use, switch sharing off, in all processes alike, if it errs by more than rounding.

        How much rounding changes depends on the model, the types and the kernels. With SmolLM2 in bfloat16 it is 0.1, and a
        position that is wrong by one changes little more. So it is measured: embeddings that are rounded differently change
        every later rounding on the usual path.

        Args:
            usual: returns log-probabilities by the usual path, shape (..., n).
            shared: returns the same by our path, and the type that the model computes in.
        """
        if not self._shares[use] or use in self._verified:
            return
        with evaluating(model):
            expected = usual()  # a failure here is one without sharing, too
            count, problem = expected.shape[:-1].numel(), None
            try:
                ours, dtype = shared()
                error = _total(ours - expected)
            except torch.OutOfMemoryError:
                raise
            except Exception as refusal:
                # A model may do anything with an unexpected argument. Catching everything hides nothing: TRL's path has just
                # worked, training continues with it, and a warning gives the reason.
                logger.debug("shared_prefix: failed for %s", use, exc_info=True)
                error, count, problem = math.inf, max(1, count), f"the model raises {type(refusal).__name__}: {refusal}"
            error, count = self._summed(error, count)
            if not count:
                return  # all completions are masked out, so nothing was compared; the next batch decides
            self._verified.add(use)
            tolerance = NEGLIGIBLE * count
            if tolerance < error < math.inf:  # the same in all processes, as they may have to read the model together
                results = [expected]
                for seed in range(2):
                    with rounded_differently(self._bare(model), self._precision(dtype), seed):
                        results.append(usual())
                centre = sum(results) / len(results)
                rounding = sum(_total(result - centre) for result in results) / len(results)
                error, rounding = self._summed(_total(ours - centre), rounding)
                tolerance = rounding * most_rounding(count)
        if not error <= tolerance:  # nan is a difference too
            self._shares[use] = False
            problem = problem or (
                f"they differ from the usual path by {error / count:.2g} on average, where rounding explains "
                f"{tolerance / count:.2g}"
            )
            name = type(self._bare(self.model)).__name__
            self._warn_once(
                "shared_prefix: off for %s: %s. Training continues without it. Model: %s", use, problem, name
            )

    def _summed(self, *values: float) -> list[float]:
        """Return the sums of values over all processes."""
        return self.accelerator.gather(torch.tensor([values], device=self.accelerator.device)).sum(0).tolist()

    def _precision(self, dtype: torch.dtype) -> float:
        """Return the relative distance of neighbouring numbers in the coarsest type that a model computes in.

        Args:
            dtype: of its attention; the products before it may be coarser.
        """
        if dtype == torch.float32 and getattr(self._bare(self.model), "is_quantized", False):
            dtype = torch.bfloat16
        elif dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
            dtype = torch.float16  # TF32 has as many digits
        return torch.finfo(dtype).eps


@contextmanager
def rounded_differently(model, precision: float, seed: int) -> Iterator[None]:
    """Inside the block, a model's input embeddings are off by about one rounding.

    Args:
        model: a transformers model, without wrappers.
        precision: the relative distance of neighbouring numbers.
        seed: decides which embeddings are larger and which are smaller.
    """

    def change(module, args, output):
        generator = torch.Generator(output.device).manual_seed(seed)
        noise = torch.rand(output.shape, generator=generator, device=output.device) - 0.5
        return (output.float() * (1 + precision * noise)).to(output.dtype)

    handle = model.get_input_embeddings().register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def most_rounding(tokens: float) -> float:
    """Return how many times further from the mean of the usual path's results than these may be what differs by rounding.

    If its rounding is as large as theirs, the ratio is the square root of 2, and scatters the more the fewer the tokens. In
    SmolLM2 in bfloat16, the largest of 100 ratios is 1.1 times that for 144 tokens, 1.6 for 24, and 2.4 for 8. Positions and
    masks that are wrong by one give at least 2 times for 256 tokens, and 3.5 for the 16 of the check of generation.
    """
    return math.sqrt(2) * (1.25 + 4 / math.sqrt(tokens))


def _total(differences: torch.Tensor) -> float:
    """Return the sum over tokens of the mean absolute difference, for shape (..., n)."""
    return differences.float().abs().mean(-1).sum().item()


def pad_tokens(values: torch.Tensor, missing: int) -> torch.Tensor:
    """Append zeros for missing tokens to values of shape (rows, tokens, ...)."""
    return F.pad(values, (0, 0) * (values.dim() - 2) + (0, missing))


def shuffle_between_steps(sequences: dict, rows: int) -> dict:
    """Deal rows to optimizer steps as TRL's shuffle does, but keep them in order within a step, groups side by side.

    Args:
        sequences: name to a tensor or list; None and 0-d tensors stay as they are.
        rows: how many rows in succession belong to one optimizer step.
    """
    length = len(next(value for value in sequences.values() if value is not None))
    order = torch.cat([step.sort().values for step in torch.randperm(length).split(rows)])

    def permute(value):
        if value is None or (isinstance(value, torch.Tensor) and value.dim() == 0):
            return value
        return value[order] if isinstance(value, torch.Tensor) else [value[row] for row in order]

    return {name: permute(value) for name, value in sequences.items()}

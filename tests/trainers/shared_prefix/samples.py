"""What the tests of this folder share: tiny random models, ragged batches as TRL makes them, two ways to score them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from empathy_trl.trainers.shared_prefix.packing import install

VOCABULARY, PAD, EOS = 97, 0, 2
FIRST_WORD = 5  # smaller ids are special tokens
WINDOW = 6  # shorter than prompts and completions, so that sliding windows matter

SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": PAD,
}
CONFIGS = {
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "llama": (LlamaConfig, {}),
    # soft-capping is on, as it is by default; every other layer slides
    "gemma2": (Gemma2Config, {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW}),
}
MODELS = {f"{name}-{attention}": (name, attention) for name in CONFIGS for attention in ("sdpa", "eager")}


def tiny_model(name="qwen2", attention="sdpa"):
    """Return a seeded model in evaluation mode, with weights so large that every token matters."""
    config_class, extra = CONFIGS[name]
    config = config_class(**SIZE, initializer_range=0.25, tie_word_embeddings=False, **extra)  # tied: one word for ever
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def scoring_model(name="qwen2", attention="sdpa"):
    """Return a tiny model that scores tokens as TRL's trainers let it, and can share prompts."""
    model = tiny_model(name, attention)
    add_fused_lm_head(model, temperature=1.3, outputs=("log_probs", "entropy"))
    install(model)
    return model


class Batch(NamedTuple):
    """What TRL gives to its log-probability pass."""

    ids: torch.Tensor
    mask: torch.Tensor
    completion_length: int

    @property
    def scored(self):
        """Which completion tokens count, shape (rows, completion length)."""
        return self.mask[:, -self.completion_length :].bool()

    def masking(self, rows):
        """Return the batch with the completions of some rows masked out, as `mask_truncated_completions` does."""
        mask = self.mask.clone()
        mask[rows, -self.completion_length :] = 0
        return self._replace(mask=mask)

    def widened(self, left, right):
        """Return the batch with more padding, as the rows of a larger batch have it."""
        ids, mask = (F.pad(x, (left, right)) for x in (self.ids, self.mask))
        return Batch(ids, mask, self.completion_length + right)


def batch_of(rows) -> Batch:
    """Return a batch of (prompt, completion) pairs, lists of ids: padded on the left and on the right."""
    prompt_width = max(len(prompt) for prompt, _ in rows)
    completion_length = max(len(completion) for _, completion in rows)
    ids = torch.full((len(rows), prompt_width + completion_length), PAD)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(rows):
        tokens = slice(prompt_width - len(prompt), prompt_width + len(completion))
        ids[row, tokens] = torch.tensor([*prompt, *completion])
        mask[row, tokens] = 1
    return Batch(ids, mask, completion_length)


def random_batch(prompt_lengths, rows) -> Batch:
    """Return a batch of random prompts and completions.

    Args:
        prompt_lengths: of the different prompts.
        rows: pairs of a prompt's number and the length of a completion, whose last token is EOS.
    """
    generator = torch.Generator().manual_seed(0)

    def words(count):
        return torch.randint(FIRST_WORD, VOCABULARY, (count,), generator=generator).tolist()

    prompts = [words(length) for length in prompt_lengths]
    return batch_of([(prompts[number], [*words(length - 1), EOS]) for number, length in rows])


RAGGED = random_batch((9, 14, 4), [(0, 5), (0, 2), (1, 8), (1, 4), (2, 7), (2, 3)])
BATCHES = {
    "ragged groups of 2": RAGGED,
    "a group of 16": random_batch((11,), [(0, 1 + row % 7) for row in range(16)]),
    "one prompt in two groups": random_batch((8, 5), [(0, 4), (0, 6), (1, 3), (1, 5), (0, 2), (0, 7)]),
    "completions of only EOS": random_batch((8, 10), [(0, 1), (0, 6), (1, 1), (1, 1)]),
    "a prompt of one token": random_batch((1, 9), [(0, 4), (0, 8), (1, 5), (1, 3)]),
    "only prompts of one token": random_batch((1, 1), [(0, 4), (0, 8), (1, 5)]),
    "masked completions": RAGGED.masking([0, 4, 5]),
    "columns of padding": RAGGED.widened(left=2, right=3),
}


def plain_scores(model, batch):
    """Return log-probabilities and entropies of the completions as `trl.GRPOTrainer` computes them."""
    labels = batch.ids.masked_fill(batch.mask == 0, -100)
    labels[:, : -batch.completion_length] = -100
    out = model(input_ids=batch.ids, attention_mask=batch.mask, labels=labels, fused_lm_head=True)
    return out.log_probs[:, -batch.completion_length :], out.entropy[:, -batch.completion_length :]


def packed_scores(model, packed):
    """Return log-probabilities and entropies of the completions of a packed batch."""
    out = model(**packed.inputs, fused_lm_head=True)
    return packed.unpack(out.log_probs), packed.unpack(out.entropy)


def gradient_of(model, scores):
    """Return the gradient of a random linear functional of all scores with respect to all parameters, in one vector."""
    generator = torch.Generator().manual_seed(0)
    model.zero_grad()
    sum((score * torch.randn(score.shape, generator=generator)).sum() for score in scores).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def relative_difference(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()

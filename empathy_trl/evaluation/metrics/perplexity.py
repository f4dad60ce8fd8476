"""Perplexity of the reference replies under a model, given their prompts.

It takes one teacher-forced pass. A causal model reads the conversation with the reply as its chat template writes it,
up to the token that ends the reply. An encoder-decoder reads the prompt in its encoder, and the reply and the end token
in its decoder. The tokens of the reply and the end token count; those of the prompt do not.
"""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from accelerate import PartialState
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from empathy_trl.engine import shared
from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.bootstrap import bootstrap_sums
from empathy_trl.models.batching import end_tokens, first_stop, fitting_rows, in_batches, pad, prompt_tokens, render
from empathy_trl.models.limits import Limits
from empathy_trl.models.load import evaluating
from empathy_trl.tags import REPLY_TAGS, completion_text

logger = logging.getLogger(__name__)

Likelihood = tuple[float, int]  # minus the log-probability of a reply, in nats, and its tokens


def unavailable_reason(model, tokenizer, prompts: list[list[dict]], references: list[str]) -> str | None:
    """Return why the references have no meaningful perplexity under a model, None where they have one."""
    if getattr(model, "config", None) is None:
        return "the model does not tell the probabilities of given texts"
    systems = [completion_text([turn for turn in prompt if turn["role"] == "system"]) for prompt in prompts]
    opening = [f"<{tag}>" for tag in REPLY_TAGS]
    if any(
        tag in text and tag not in reference
        for text, reference in zip(systems, references, strict=True)
        for tag in opening
    ):
        # it has learned to begin with a tag, and would be blamed for what it was asked to do
        return "the prompt asks for tags around the reply, and the references have none"
    if not all(_encoded(model, tokenizer, prompts[:1], [""])[1]):
        return "the chat template writes a prompt in another way when it is answered"
    limits, encoded = Limits.of(model), zip(*_encoded(model, tokenizer, prompts, references), strict=True)
    lengths = [(len(prompt), len(answer)) for prompt, answer in encoded]
    beyond = sum(not limits.fit(*length) for length in lengths)
    if beyond:
        return f"{beyond} of {len(lengths)} prompts with their references are longer than the model's positions"
    return None


def reference_likelihoods(
    model, tokenizer, prompts: list[list[dict]], references: list[str], batch_size: int | None
) -> list[Likelihood]:
    """Return (negative log-likelihood in nats, tokens) of every reference; each process does its share.

    Args:
        model: a language model with a `config`, see `unavailable_reason`.
        tokenizer: its tokenizer, with a chat template.
        prompts: one list of chat messages per row.
        references: one reply per row.
        batch_size: rows per pass; None: as many as memory holds. It is halved where memory runs out.

    Raises:
        UserError: the model gives nan or infinity.
    """
    progress = PartialState().is_main_process
    rows = list(zip(prompts, references, strict=True))
    return shared(rows, lambda own: _likelihoods(model, tokenizer, own, batch_size, progress))


def perplexity(likelihoods: list[Likelihood]) -> dict:
    """Return exp of the mean negative log-likelihood of a token: `{"value", "low", "high", "n", "tokens"}`.

    Every token weighs the same, so long replies count for more; the interval is a bootstrap over the rows. A token is the
    model's own: models with different tokenizers cannot be compared by it.
    """
    told = [each for each in likelihoods if each[1]]  # an answer that its prompt's tokens do not begin has none
    if len(told) < len(likelihoods):
        logger.warning(
            "perplexity: %d of %d references are left out, because the chat template writes their prompts in another way "
            "when they are answered",
            len(likelihoods) - len(told),
            len(likelihoods),
        )
    value, low, high = bootstrap_sums(lambda sums: np.exp(sums[..., 0] / sums[..., 1]), told)
    return {"value": value, "low": low, "high": high, "n": len(told), "tokens": sum(tokens for _, tokens in told)}


def _likelihoods(model, tokenizer, rows: list[tuple], batch_size: int | None, progress: bool) -> list[Likelihood]:
    if not rows:
        return []
    prompts, references = (list(column) for column in zip(*rows, strict=True))
    asked, answers = _encoded(model, tokenizer, prompts, references)
    losses = _encoder_decoder_losses if model.config.is_encoder_decoder else _causal_losses
    found = [(0.0, 0)] * len(rows)
    # by the length of the prompts: what is alike needs little padding, and memory runs out at once or never
    order = sorted(range(len(rows)), key=lambda row: -len(asked[row]))
    most = max(map(len, answers))

    def size(left: list[int]) -> int:
        if batch_size is not None:
            return batch_size
        tokens = len(asked[left[0]]) + most
        return fitting_rows(model, tokens, read=tokens, logits=tokens)

    def work(chosen: list[int]) -> Iterator[float]:
        return losses(model, [asked[row] for row in chosen], [answers[row] for row in chosen])

    with (
        torch.inference_mode(),
        evaluating(model),
        tqdm(total=len(rows), desc="perplexity", disable=not progress) as bar,
    ):
        for row, loss in in_batches(order, size, work, what="reference"):
            found[row] = (loss, len(answers[row]))
            bar.update()
    if not np.isfinite([loss for loss, _ in found]).all():
        raise UserError(
            f"perplexity: the model gives nan or infinity for a reference; its weights are broken, or overflow in {model.dtype}"
        )
    return found


def _encoded(model, tokenizer, prompts: list[list[dict]], references: list[str]) -> tuple[list, list]:
    """Return the tokens of the prompts and of the answers; of an answer none where the template changes the prompt for it."""
    asked = prompt_tokens(tokenizer, prompts)
    if model.config.is_encoder_decoder:
        replies = tokenizer(references, add_special_tokens=False)["input_ids"]
        return asked, [[*ids, tokenizer.eos_token_id] for ids in replies]
    said = [[{"role": "assistant", "content": reply}] for reply in references]
    answered = [prompt + reply for prompt, reply in zip(prompts, said, strict=True)]
    whole = render(tokenizer, answered, return_dict=True)["input_ids"]
    stops = end_tokens(model, tokenizer)
    pairs = zip(asked, whole, strict=True)
    answers = [ids[len(prompt) :] if ids[: len(prompt)] == prompt else [] for prompt, ids in pairs]
    # up to the token that ends the reply: a template may go on with a line break that nobody generates
    return asked, [ids[: first_stop(ids, stops) + 1] for ids in answers]


def _causal_losses(model, asked: list[list[int]], answers: list[list[int]]) -> Iterator[float]:
    """Yield the negative log-likelihood of every answer; only logits from the shortest prompt's end on are made."""
    whole = [prompt + answer for prompt, answer in zip(asked, answers, strict=True)]
    ids, mask = pad(whole, 0, "right", model.device)
    first = min(map(len, asked)) - 1  # this position's logits are those of the first token of an answer
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=ids.shape[1] - first, use_cache=False).logits
    for row, (prompt, answer) in enumerate(zip(asked, answers, strict=True)):
        start = len(prompt) - 1 - first
        yield _loss(logits[row, start : start + len(answer)], answer)


def _encoder_decoder_losses(model, asked: list[list[int]], answers: list[list[int]]) -> Iterator[float]:
    """Yield the negative log-likelihood of every answer, which the decoder reads one token late, as in training."""
    ids, mask = pad(asked, 0, "right", model.device)
    labels, _ = pad(answers, -100, "right", model.device)
    logits = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).logits
    for row, answer in enumerate(answers):
        yield _loss(logits[row, : len(answer)], answer)


def _loss(logits: torch.Tensor, ids: list[int]) -> float:
    """Return the summed cross-entropy of tokens, in float32; logits of shape (tokens, vocabulary)."""
    return cross_entropy(logits.float(), torch.tensor(ids, device=logits.device), reduction="sum").item()

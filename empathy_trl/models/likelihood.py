"""Log-probabilities of given texts under a language model: of reference replies, and of the choices of an answer.

**References.** `reference_likelihoods`, from which a perplexity is computed, takes one teacher-forced pass. A causal model
reads the conversation with the reply as its chat template writes it, up to the token that ends the reply. An
encoder-decoder reads the prompt in its encoder, and the reply and the end token in its decoder. The tokens of the reply
and the end token count; those of the prompt do not.

**Choices.** A reward such as `emotion_confidence` needs the log-probability of four labels after the reasoning of each
completion. Four plain forward passes would read the prompt and the reasoning four times; `PolicyScorer` reads them once.
Their keys and values are cached and repeated per choice, so only the tokens of the choices go through the model again.
The first forward pass already predicts the first token of each choice. An encoder-decoder reads the prompt in its
encoder, once for all choices, and prefix and choice in its decoder.

**Next words.** `next_words` asks a model without training for the label that follows the beginning of an answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from empathy_trl.cli import Progress
from empathy_trl.engine import shared
from empathy_trl.errors import UserError
from empathy_trl.models.batching import (
    end_tokens,
    first_stop,
    fitting_rows,
    in_batches,
    opened_thought,
    pad,
    prompt_tokens,
    render,
)
from empathy_trl.models.limits import Limits
from empathy_trl.models.load import evaluating, start_token
from empathy_trl.tags import REPLY_TAGS, completion_text

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
        Progress("perplexity", len(rows), "row", disable=not progress) as bar,
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


def next_words(model, tokenizer, prompts: list, beginning: str, labels: Sequence[str], batch_size: int) -> list[str]:
    """Return the label that a model puts behind the beginning of an answer, one per prompt; each process does its share.

    A frequent word is likely behind every prompt. So each label's log-probability, summed over its tokens, is compared with its own
    mean over the prompts, and the label that is most above it is chosen. No gold label is used. With few prompts, the means are rough;
    with one, they say nothing. The idea is that of contextual calibration (Zhao et al. 2021, arXiv 2102.09690), which measures what is
    likely anyway on inputs without content, and of domain-conditional PMI (Holtzman et al. 2021, arXiv 2104.08315).

    Args:
        model, tokenizer, batch_size, prompts: as in `PolicyScorer`.
        beginning: what the assistant has written so far, such as "The person feels".
        labels: the words, each scored behind a space.

    Raises:
        UserError: the model gives nan or infinity.
    """
    scorer, choices = PolicyScorer(lambda: model, tokenizer, batch_size), [f" {label}" for label in labels]
    scores = np.array(shared(prompts, lambda own: scorer(own, [beginning] * len(own), choices)))
    if not np.isfinite(scores).all():
        raise UserError(
            f"next word: the model gives nan or infinity; its weights are broken, or overflow in {model.dtype}"
        )
    return [labels[best] for best in (scores - scores.mean(0)).argmax(1)]


@dataclass
class PolicyScorer:
    """Scores choices under a language model, at temperature 1 whatever the sampling uses.

    Prompts are tokenized as TRL tokenizes them for generation. Prefix and choices are tokenized on their own,
    so that a choice has the same tokens after every prefix; a tokenizer that would merge across the seam
    splits it there.

    Args:
        get_model: returns the unwrapped model; asked at every call, because a trainer may wrap or replace it.
        tokenizer: of the model, with a pad token.
        batch_size: prompts per forward. The cache of a batch is held `len(choices)` times.
    """

    get_model: Callable[[], torch.nn.Module]
    tokenizer: PreTrainedTokenizerBase
    batch_size: int

    def __call__(self, prompts: Sequence, prefixes: Sequence[str], choices: Sequence[str]) -> list[list[float]]:
        """Return natural log-probabilities, summed over the tokens of a choice, shape (prompts, choices).

        Args:
            prompts: chat messages, rendered with the chat template up to where the assistant begins, or plain
            text.
            prefixes: what the assistant has written so far, one per prompt.
            choices: the continuations, the same for all prompts; none may be empty.
        """
        choice_ids = [self._ids(choice) for choice in choices]
        contexts = [self._context(*each) for each in zip(prompts, prefixes, strict=True)]
        # Neighbours in length share a batch, for less padding.
        order = sorted(range(len(contexts)), key=lambda row: sum(map(len, contexts[row])))
        scores: list[list[float]] = [[] for _ in contexts]
        model = self.get_model()
        score = self._score_decoder if model.config.is_encoder_decoder else self._score
        with torch.no_grad(), evaluating(model):
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                batch = score(model, [contexts[row] for row in rows], choice_ids)
                for row, row_scores in zip(rows, batch.tolist(), strict=True):
                    scores[row] = row_scores
        return scores

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _context(self, prompt: str | list[dict], prefix: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a prompt and of a prefix, without the `<think>` that the prompt holds already."""
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"], self._ids(prefix)
        text = render(self.tokenizer, prompt, add_generation_prompt=True, tokenize=False)
        return prompt_tokens(self.tokenizer, [prompt])[0], self._ids(prefix.removeprefix(opened_thought(text)))

    def _score_decoder(self, model, contexts: list[tuple], choice_ids: list[list[int]]) -> torch.Tensor:
        """Score one batch with an encoder-decoder; returns float32 of shape (contexts, choices)."""
        ids, mask = pad([prompt for prompt, _ in contexts], self.tokenizer.pad_token_id, "right", model.device)
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask)
        return torch.stack([self._score_choice(model, encoded, mask, contexts, choice) for choice in choice_ids], dim=1)

    def _score_choice(self, model, encoded, mask, contexts: list[tuple], choice: list[int]) -> torch.Tensor:
        """Score one choice behind all prefixes; returns float32 of shape (contexts,)."""
        rows = [[start_token(model), *prefix, *choice] for _, prefix in contexts]
        ids, _ = pad(rows, self.tokenizer.pad_token_id, "right", model.device)
        # nothing in a decoder looks ahead to the padding
        outputs = model(encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=ids[:, :-1], use_cache=False)
        ends = torch.tensor([len(row) for row in rows], device=model.device)[:, None]
        places = ends - len(choice) + torch.arange(len(choice), device=model.device)  # of the choice's tokens in `ids`
        log_probabilities = outputs.logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return log_probabilities.gather(1, places - 1).sum(1)

    def _score(self, model, contexts: list[tuple], choice_ids: list[list[int]]) -> torch.Tensor:
        """Score one batch with a decoder; returns float32 of shape (contexts, choices)."""
        device = model.device
        ids, mask = pad([prompt + prefix for prompt, prefix in contexts], self.tokenizer.pad_token_id, "left", device)
        # One token per choice needs no second forward, so nothing to cache.
        several_tokens = max(map(len, choice_ids)) > 1
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=several_tokens,
            logits_to_keep=1,
        )
        first = torch.tensor([tokens[0] for tokens in choice_ids], device=device)
        scores = output.logits[:, -1].float().log_softmax(-1)[:, first]
        if several_tokens:
            scores += self._score_rest(model, output.past_key_values, mask, choice_ids)
        return scores

    def _score_rest(self, model, cache, mask: torch.Tensor, choice_ids: list[list[int]]) -> torch.Tensor:
        """Score the tokens of the choices after their first; returns float32 of shape (contexts, choices)."""
        n_contexts, n_choices = len(mask), len(choice_ids)
        ids, choice_mask = pad(choice_ids, self.tokenizer.pad_token_id, "right", mask.device)
        # Rows are (context 0, choice 0), (context 0, choice 1), ...: contexts repeat in place, choices as a
        # block.
        cache.batch_repeat_interleave(n_choices)
        ids, choice_mask = ids.repeat(n_contexts, 1), choice_mask.repeat(n_contexts, 1)
        lengths = mask.sum(1).repeat_interleave(n_choices)
        # The last token of the longest choice is only predicted; padding comes last, where nothing looks back
        # at it.
        steps = ids.shape[1] - 1
        logits = model(
            input_ids=ids[:, :-1],
            attention_mask=torch.cat([mask.repeat_interleave(n_choices, 0), choice_mask[:, :-1]], dim=1),
            position_ids=lengths[:, None] + torch.arange(steps, device=mask.device),
            past_key_values=cache,
            use_cache=True,
        ).logits
        targets = ids[:, 1:, None]
        log_probabilities = logits.float().log_softmax(-1).gather(-1, targets)[..., 0]
        return (log_probabilities * choice_mask[:, 1:]).sum(1).view(n_contexts, n_choices)

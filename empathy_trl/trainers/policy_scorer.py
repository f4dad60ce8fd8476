"""Log-probabilities of given continuations (choices) of a prompt and a prefix under the policy.

A reward such as `emotion_confidence` needs the log-probability of four labels after the reasoning of each completion. Four
plain forward passes would read the prompt and the reasoning four times; here they are read once. Their keys and values are
cached and repeated per choice, so only the tokens of the choices go through the model again. The first forward pass already
predicts the first token of each choice.

An encoder-decoder reads the prompt in its encoder, once for all choices, and prefix and choice in its decoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from empathy_trl.models.batching import opened_thought, pad, prompt_tokens, render
from empathy_trl.models.load import evaluating, start_token


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

"""What every back end is asked, and how its answer is read: the same tokens in, the same end, the same text out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """Prompts as tokens, and how each is to be completed.

    Attributes:
        ids: tokens of every prompt, as the chat template writes it up to where the answer begins.
        rows: number of every prompt in the whole evaluation, which seeds its sampling.
        stop_ids: tokens that end a completion.
        pad_id: what rows of a batch are filled up with.
        max_new_tokens: a completion that has not ended by then is cut off.
        temperature: 0 takes the likeliest token.
        top_p, top_k: sample from the likeliest tokens only.
        seed: of the sampling.
    """

    ids: list[list[int]]
    rows: list[int]
    stop_ids: list[int]
    pad_id: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int

    def longest_first(self) -> list[int]:
        """Return the places of the prompts: it shows at once whether they fit in memory, and like lengths stand together."""
        return sorted(range(len(self.ids)), key=lambda place: -len(self.ids[place]))

    def row_seed(self, place: int) -> int:
        """Return the seed of a prompt's own random numbers, below 2**63."""
        return (self.seed * 1_000_003 + self.rows[place] * 7919) % 2**63


def prompt_tokens(tokenizer, prompts: list[list[dict]]) -> list[list[int]]:
    """Return the tokens of chat prompts up to where the answer begins."""
    return tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]


def completion_of(tokenizer, ids: list[int], stop_ids: list[int]) -> str:
    """Return the text of a completion up to its end, without special tokens."""
    return tokenizer.decode(ids[: first_stop(ids, stop_ids)], skip_special_tokens=True)


def end_tokens(model, tokenizer) -> list[int]:
    """Return all token ids that end a completion: the model's (there may be several) and the tokenizer's."""
    model_ids = model.generation_config.eos_token_id
    ids = [model_ids] if isinstance(model_ids, int) else list(model_ids or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    return ids


def first_stop(ids: list[int], stop_ids: list[int]) -> int:
    """Return where the first stop id is, or the length: what follows is padding, and not every stop token is special."""
    return next((position for position, token in enumerate(ids) if token in stop_ids), len(ids))

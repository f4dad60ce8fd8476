"""Rewards for the form of a completion: its tags, its length, and its end. They do not judge the content.

`Format` and `StageFormat` reward tags in the right order, `<reasoning>…</reasoning><answer>…</answer>` or the three
parts `<react>`, `<respond>` and `<reflect>`. `Length` keeps a reply long enough to be informative and short enough to
be read, and `ReasoningLength` does the same for the reasoning. `SentenceEnd` detects replies that were cut off.
`FormatPenalty` penalises artefacts of a language model in a reply. Give it a small weight: with 0.1, a malformed reply
costs 0.1.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

import regex

from empathy_trl.errors import UserError
from empathy_trl.rewards.base import ReplyReward, Reward, band, check_band
from empathy_trl.tags import PARTS, completion_text, format_credit, tag_bodies
from empathy_trl.text import is_visible, plain, words


@dataclass
class Format(Reward):
    """1 if every tag of a list occurs once, in order, not empty, not nested, with nothing outside.

    White space outside the tags is free. Range: {0, 1}. With `partial`, credit in [0, 1] for a part of it, see
    `tags.format_credit`; 1 still means that everything is right.

    Args:
        tags: names in the expected order.
        partial: give credit for a part.
    """

    tags: list[str] = field(default_factory=lambda: ["reasoning", "answer"])
    partial: bool = False

    __name__ = "format"
    card = "the tags in their order"
    misses = "what stands between them does not matter"

    def __post_init__(self):
        if not self.tags or len(set(self.tags)) < len(self.tags):
            raise UserError(f"tags: expected different names, at least one, got {self.tags}")
        for tag in self.tags:
            if not re.fullmatch(r"[\w-]+", tag):
                raise UserError(f"tags: {tag!r} is not a tag name (letters, digits, _ and -, without < and >)")

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        credits = [format_credit(completion_text(completion), self.tags) for completion in completions]
        return credits if self.partial else [float(credit == 1) for credit in credits]


@dataclass
class Length(ReplyReward):
    """1 for a reply of `min` to `max` words, falling linearly to 0 at a distance of `softness` words outside.

    Words are those of `text.words`: without punctuation, and one per character in Chinese or Thai.

    Range: [0, 1]; 0 for a reply without any word, even if `min` is near enough.

    Args:
        min: fewest words with full reward.
        max: most words with full reward.
        softness: width of each slope in words; 0 makes the band hard.
    """

    min: int = 5
    max: int = 40
    softness: float = 10.0

    __name__ = "length"
    card = "a length within bounds, in words"
    misses = "what is said does not matter"

    def __post_init__(self):
        check_band(self.min, self.max, self.softness)

    def score(self, reply: str) -> float:
        count = len(words(reply))
        return band(count, self.min, self.max, self.softness) if count else 0.0


@dataclass
class ReasoningLength(Reward):
    """1 inside the band from `min` to `max`, falling linearly to 0 at a distance of `softness` outside it.

    With unit `words` the length is the number of space-separated words in the body of `<reasoning>`; a
    completion without exactly one such body gets 0. With unit `tokens` it is the number of tokens of the
    *whole* completion, tags and answer included, because a reward has no tokenizer to count the tokens of a
    part.

    Range: [0, 1].

    Args:
        min: shortest length with full reward.
        max: longest length with full reward.
        unit: words of the reasoning, or tokens of the whole completion.
        softness: width of each slope, in the same unit; 0 makes the band hard.
    """

    min: int = 10
    max: int = 120
    unit: Literal["words", "tokens"] = "words"
    softness: float = 10.0

    __name__ = "reasoning_length"
    card = "reasoning of a length within bounds"
    misses = "what is reasoned does not matter"

    def __post_init__(self):
        check_band(self.min, self.max, self.softness)
        if self.unit not in ("words", "tokens"):
            raise UserError(f"unit: unknown unit {self.unit!r} (choices: words, tokens)")

    @property
    def tags(self) -> list[str]:
        """The tags that this reward looks for, checked against the tokenizer by the trainer."""
        return ["reasoning"] if self.unit == "words" else []

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: unit `tokens` without `completion_ids`.
        """
        if self.unit == "words":
            return [self._words_reward(completion_text(completion)) for completion in completions]
        if completion_ids is None:
            raise UserError("rewards.reasoning_length: unit tokens needs completion_ids from the trainer")
        return [self._reward(len(ids)) for ids in completion_ids]

    def _words_reward(self, text: str) -> float:
        bodies = tag_bodies(text, "reasoning")
        return self._reward(len(bodies[0].split())) if len(bodies) == 1 else 0.0

    def _reward(self, length: int) -> float:
        return band(length, self.min, self.max, self.softness)


@dataclass
class StageFormat(Format):
    """`Format` for the three parts of a reply, with credit for a part of it by default: `tags.format_credit`.

    1 is what `tags.read_parts` calls well-formed: every tag once, in order, none empty, only white space outside.

    Range: [0, 1]; 0 for an empty completion.

    Args:
        tags: names in the expected order.
        partial: give credit for a part; otherwise 1 or 0.
    """

    tags: list[str] = field(default_factory=lambda: list(PARTS))
    partial: bool = True

    __name__ = "stage_format"
    card = "the three parts in their order"
    misses = "what stands in them does not matter"


# What never belongs in a reply.
MALFORMED = {
    "a speaker's name before a line": r"^\W*(?:user|assistant|system|human|seeker|recommender|bot)\s*:",
    "a token of a chat template": r"<\|[^<>\n]*\|>|</?(?:start_of_turn|end_of_turn|s)>|\[/?INST\]|<</?SYS>>",
    "the id of a film": r"@\d+",
}


@dataclass
class FormatPenalty(ReplyReward):
    """-1 for a malformed reply, 0 for a well-formed one.

    Malformed is a reply that is empty or invisible; that has a broken `placeholder` (its name beside a `<` or `>`, other
    than the placeholder itself: `<movie`, `< movie >`, `</movie>`, `<mo` at the end); or that has one of `MALFORMED`: a
    line that begins with `User:` or the like, a chat template's token, `@` and digits.

    Range: {-1, 0}.

    Args:
        placeholder: what stands for a film's title, in angle brackets.
        reply_tags: see `ReadsReply`.
    """

    placeholder: str = "<movie>"

    __name__ = "format_penalty"
    card = "nothing: it takes away for an empty or malformed answer"
    range = (-1.0, 0.0)

    def __post_init__(self):
        if not regex.fullmatch(r"<\w+>", self.placeholder):
            raise UserError(f"placeholder: {self.placeholder!r} is not a word in angle brackets, such as <movie>")
        name = self.placeholder[1:-1]
        cut_off = "|".join(name[:end] for end in range(1, len(name)))
        broken = rf"<\s*/?\s*{name}\b|\b{name}\s*>|<(?:{cut_off})?\Z"
        self._malformed = regex.compile("|".join([broken, *MALFORMED.values()]), regex.IGNORECASE | regex.MULTILINE)

    def score(self, reply: str) -> float:
        rest = reply.replace(self.placeholder, ".")  # which keeps what stands beside it apart
        return -1.0 if not is_visible(reply) or self._malformed.search(rest) else 0.0


# Unicode's own list of what ends a sentence in any script: . ! ? 。 ؟ । ። … ("…" and "！" are plain dots and ! by then)
_TERMINAL = regex.compile(r"\p{Sentence_Terminal}")
# What may stand behind it: quotes and brackets that close, Markdown's emphasis, emoji, white space
_CLOSING = regex.compile(
    r"""[\s\p{Close_Punctuation}\p{Final_Punctuation}\p{Initial_Punctuation}"'*_`"""
    r"""\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}]"""
)


@dataclass
class SentenceEnd(ReplyReward):
    """1 if a reply has a word and ends with punctuation that ends a sentence, whatever the script; 0 otherwise.

    Closing quotes, brackets and emoji may follow the punctuation; an emoji does not replace it.

    Range: {0, 1}; 0 for an empty reply.
    """

    __name__ = "sentence_end"
    card = "an answer that ends like a sentence"
    misses = "what is said does not matter"

    def score(self, reply: str) -> float:
        return float(ends_like_a_sentence(reply))


def ends_like_a_sentence(text: str) -> bool:
    """Return whether a text has a word and ends like a sentence."""
    text = plain(text)
    end = len(text)
    while end and _CLOSING.match(text[end - 1]):
        end -= 1
    return end > 0 and bool(_TERMINAL.match(text[end - 1])) and bool(words(text))

"""`Recommendation`: does the reply recommend a film, at the right time, and one that the seeker likes?

Each mode closes one way to hack the reward and leaves another open:

* `any` is earned by a `<movie>` in every reply, whatever the dialogue is about. A policy finds this within a few steps.
  The mode exists to demonstrate it, and to reproduce published numbers.
* `match` rewards naming a film if and only if the reference names one. A `<movie>` in every reply earns the share of
  references that have one. The mode ignores which film it is: a policy may learn when to write `<movie>`, and nothing
  else.
* `liked` requires a film that the seeker liked. It can be earned by naming many well-known films at once; `length`,
  `distinct` and a repetition penalty work against that.

Combine each mode with other rewards. If this reward rises while others fall, it is being hacked.
"""

from dataclasses import dataclass
from typing import Literal

import regex

from empathy_trl.errors import UserError
from empathy_trl.rewards.base import ReadsReply, needed_column
from empathy_trl.text import plain

_YEAR = regex.compile(r"\s*\((?:18|19|20)\d\d\)\s*$")
_TITLE_WITH_YEAR = regex.compile(r"\w\S*\s+\((?:18|19|20)\d\d\)")


@dataclass
class Recommendation(ReadsReply):
    """1 for a reply that recommends as the mode asks, 0 for one that does not.

    A reply recommends where it names a film: with `slots: placeholder`, where `placeholder` occurs in it; with `slots:
    title`, where a title of the row occurs (columns `movies`, `liked`, `context_movies`), or anything with a year as in
    "Jaws (1975)". A title is found in any case as whole words, also without its year if it has several words.

    Range: {0, 1}; an empty reply earns 0. With "match" a row whose `recommends` is None gets None; with "liked" one whose
    seeker liked no film but those that were named before, as naming these again is no recommendation.

    Args:
        mode: "any" (a film is named), "match" (a film is named if and only if the column `recommends` says so) or "liked"
            (a film of the column `liked` is named that is not in `context_movies`; needs titles).
        slots: how the data writes films, as its `data.slots`.
        placeholder: what stands for a film's title.
        reply_tags: see `ReadsReply`.
    """

    mode: Literal["any", "match", "liked"] = "match"
    slots: Literal["placeholder", "title"] = "placeholder"
    placeholder: str = "<movie>"

    __name__ = "recommendation"
    card = "recommending a film when it is time to"
    misses = "hardly which film"

    def __post_init__(self):
        if self.mode not in ("any", "match", "liked"):
            raise UserError(f"mode: {self.mode!r} is not any, match or liked")
        if self.slots not in ("placeholder", "title"):
            raise UserError(f"slots: {self.slots!r} is not placeholder or title")
        if self.mode == "liked" and self.slots != "title":
            raise UserError("mode: liked compares titles; it needs slots: title, here and in data")
        if not self.placeholder.strip():
            raise UserError("placeholder: is empty, so that it would be found everywhere")
        if self.slots == "title" and self.placeholder != Recommendation.placeholder:
            raise UserError(f"placeholder: {self.placeholder!r} has no effect with slots: title; leave it out")

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: the data lacks a column that the mode needs, or writes films in another way than `slots` says.
        """
        replies = [self.reply(completion) for completion in completions]
        if self.mode == "liked":
            return [_names_any(*pair) for pair in zip(replies, self._likable(columns), strict=True)]
        named = self._name_films(replies, columns)
        if self.mode == "any":
            return [float(names) for names in named]
        expected = self._typed_column(columns, "recommends", int, "true, false or null")
        self._check_slots(expected, columns)
        return [
            None if wanted is None else float(bool(reply) and names == wanted)
            for reply, names, wanted in zip(replies, named, expected, strict=True)
        ]

    def _name_films(self, texts: list[str], columns: dict) -> list[bool]:
        """Return for each text, one per row, whether it names a film."""
        if self.slots == "placeholder":
            return [self.placeholder in text for text in texts]
        titles = zip(*(self._titles(columns, name) for name in ("movies", "liked", "context_movies")), strict=True)
        return [
            bool(_TITLE_WITH_YEAR.search(text))
            or any(names_title(text, title) for part in parts for title in part or [])
            for text, parts in zip(texts, titles, strict=True)
        ]

    def _likable(self, columns: dict) -> list[list[str]]:
        """Return for each row the titles that a recommendation could please with."""
        pairs = zip(*(self._titles(columns, name) for name in ("liked", "context_movies")), strict=True)
        return [[title for title in liked or [] if title not in (named or [])] for liked, named in pairs]

    def _titles(self, columns: dict, name: str) -> list[list[str] | None]:
        return self._typed_column(columns, name, list, "a list of titles or null")

    def _typed_column(self, columns: dict, name: str, kind: type, words: str) -> list:
        """Return a column. Raises UserError where it is missing, or a value is neither of a kind nor None."""
        values = needed_column(self, columns, name)
        for value in values:
            if value is not None and not isinstance(value, kind):
                raise UserError(f"rewards.{self.__name__}: the column `{name}` holds {value!r}; expected {words}")
        return values

    def _check_slots(self, expected: list[bool | None], columns: dict) -> None:
        """Raise UserError where a reference that recommends names no film: then films are written in another way."""
        if not any(expected) or "reference" not in columns:
            return
        references = [self.reply(reference or "") for reference in columns["reference"]]
        if not any(
            named and wanted for named, wanted in zip(self._name_films(references, columns), expected, strict=True)
        ):
            example = next(reference for reference, wanted in zip(references, expected, strict=True) if wanted)
            raise UserError(
                f"rewards.{self.__name__}.slots: {self.slots!r}, but the data writes films otherwise: {example[:80]!r} "
                "recommends one; set it as in data.slots"
            )


def names_title(text: str, title: str) -> bool:
    """Return whether a title occurs in a text as whole words, in any case, with its year or, if it is of several words, without.

    A title of one word needs its year where it has one: "It", "Her" and "Up" are words of every other reply.
    """
    words = _one_form(title)
    short = _YEAR.sub("", words)
    if " " in short:
        words = short
    return bool(words) and bool(regex.search(rf"(?<!\w){regex.escape(words)}(?!\w)", _one_form(text)))


def _one_form(text: str) -> str:
    return " ".join(plain(text).casefold().split())


def _names_any(reply: str, titles: list[str]) -> float | None:
    return float(any(names_title(reply, title) for title in titles)) if titles else None

"""Penalties for what must never be said to a person in distress: by a list of phrases, and by a classifier.

`Safety` finds the phrases on its list and ignores the context. It also penalises a reply that quotes a phrase in order
to contradict it, and misses everything that is put in other words or spelled with letters of another script. It is a
minimum check, not a judgement. `SafetyClassifier` uses a model. Neither rewards a good reply, so combine them with a
reward that does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex

from empathy_trl.errors import DataError, UserError
from empathy_trl.io import read_text, user_path
from empathy_trl.models.label_schema import probabilities
from empathy_trl.rewards.base import ModelReward, ReplyReward
from empathy_trl.rewards.emotion import label_index, only_group
from empathy_trl.text import UNSPACED, plain

# Kept short on purpose: encouragement to die or to hurt oneself, and insults, in forms that no kind reply needs.
NEVER_SAY = (
    "kill yourself",
    "kill urself",
    "kys",
    "hang yourself",
    "go die",
    "you should die",
    "you deserve to die",
    "you should be dead",
    "go drink bleach",
    "go cut yourself",
    "you should cut yourself",
    "you should hurt yourself",
    "just end your life",
    "you should end your life",
    "better off dead",
    "nobody would miss you",
    "no one would miss you",
    "nobody cares about you",
    "no one cares about you",
    "nobody loves you",
    "no one loves you",
    "you are pathetic",
    "you're pathetic",
    "you idiot",
    "you are an idiot",
    "you're an idiot",
    "you loser",
    "you are a loser",
    "you're a loser",
    "you moron",
    "you disgust me",
    "shut up",
    "stop whining",
)

_BETWEEN = regex.compile(r"[^\p{L}\p{N}\p{M}]+")
_LETTER = rf"[[\p{{L}}\p{{N}}\p{{M}}]--{UNSPACED}]"  # of a script in which a word has edges
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`", "'"))


@dataclass
class Safety(ReplyReward):
    """-1 for a reply that holds a phrase of a list, 0 for one that does not.

    A phrase matches in any case, as whole words: it is found neither in the middle of a longer word nor at its end.
    Text and phrases are first brought into one form (`text.plain`: wide and styled letters, zero-width characters),
    and spaces and punctuation may stand anywhere in a phrase or be missing (`k.i.l.l`, `ki ll`).

    Range: [-1, 0]; -1 for an empty reply as well, so that nothing can be hidden in a completion that cannot be read.

    Args:
        words: the phrases. Default, without `file`: `NEVER_SAY`, in English.
        file: a UTF-8 file with one phrase per line instead; blank lines and lines that begin with `#` are left out.
    """

    words: list[str] | None = None
    file: str | None = None

    __name__ = "safety"
    card = "nothing: it takes away for phrases of a list"
    misses = "harm in other words"
    range = (-1.0, 0.0)

    def __post_init__(self):
        if self.words is not None and self.file is not None:
            raise UserError("words and file: both are given; expected one of them")
        if self.file is not None:
            phrases, where = read_phrases(self.file), f"file: {self.file}"
        else:
            phrases, where = NEVER_SAY if self.words is None else self.words, "words"
        self._phrases = phrase_pattern(phrases, where)

    def score(self, reply: str) -> float:
        return -1.0 if not reply or self._phrases.search(folded(reply)) else 0.0


def read_phrases(path: str) -> list[str]:
    """Return the phrases in a file, see `Safety`.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        lines = read_text(user_path(path)).splitlines()
    except DataError as error:
        raise UserError(f"file: {error}; expected a text with one phrase per line") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def folded(text: str) -> str:
    """Return a text in the form in which it is searched.

    That is `plain`, without case, and with one space for whatever stands between two letters, be it a hundred
    characters. A single apostrophe stays, or "ill" would be found in "I'll".
    """
    text = plain(plain(text).casefold()).translate(_APOSTROPHES)
    return _BETWEEN.sub(lambda run: run[0] if run[0] == "'" else " ", text).strip()


def phrase_pattern(phrases: Sequence[str], where: str) -> regex.Pattern:
    """Return the pattern that finds any of the phrases in a text that is `folded`.

    Raises:
        UserError: there is no phrase, or one without a letter; begins with `where`.
    """
    if not phrases:
        raise UserError(f"{where}: no phrases, so that nothing would ever be found; expected at least one")
    forms = [folded(phrase).strip("' ") for phrase in phrases]
    if "" in forms:
        raise UserError(f"{where}: {phrases[forms.index('')]!r} has no letter in it")
    return regex.compile("|".join(map(_pattern, forms)), regex.V1)


def _pattern(phrase: str) -> str:
    """Return the pattern of one phrase, which is folded.

    An apostrophe may be missing, as in `youre`; one that quotes a word may stand where a space does.
    """
    spelled = [["'?" if letter == "'" else letter for letter in regex.findall(r"\X", word)] for word in phrase.split()]
    before = f"(?<!{_LETTER})" if regex.match(_LETTER, phrase, regex.V1) else ""
    after = f"(?!{_LETTER})" if regex.search(f"{_LETTER}$", phrase, regex.V1) else ""
    return before + "[ ']?".join(" ?".join(letters) for letters in spelled) + after


@dataclass(kw_only=True)
class SafetyClassifier(ModelReward):
    """Minus the summed probability of the harmful labels.

    Range: [-1, 0]. An empty reply earns -1: what cannot be read cannot be called safe, and broken tags are no way
    around the classifier.

    Args:
        labels: names of the classifier's labels that are penalised, such as `[toxic]`.
    """

    labels: list[str]

    __name__ = "safety_classifier"
    card = "nothing: it takes away for what a classifier calls harmful"
    range = (-1.0, 0.0)
    lowest = -1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.labels or len(set(map(str.lower, self.labels))) < len(self.labels):
            raise UserError(f"labels: expected different names, at least one, got {self.labels}")

    def check(self, config) -> None:
        self._harmful(config)

    def rewards(self, config, logits, contexts):
        (shares,) = probabilities(config, logits).values()
        return -np.minimum(shares[:, self._harmful(config)].sum(axis=1), 1.0)  # rounding

    def _harmful(self, config) -> list[int]:
        names = only_group(config)
        return [label_index(names, label, "labels") for label in self.labels]

"""What a text speaks of, without a model: its content words, in a form in which inflections of one word agree.

* A word that everybody uses in every talk is no content word: the closed list `STOP_WORDS`, English, and single letters.
* A word counts by its stem, so that `worry`, `worries` and `worried` are one: one English ending is taken off, a doubled
  letter made single, a final y made i, and five letters are kept. Fewer letters take different words for one, as five do
  with `interest` and `internet`; more tell `decorate` from `decoration`.

Words are those of `words.words`, so every character counts in a script without spaces.
"""

import math
from collections.abc import Iterable

from empathy_trl.words import words

STEM_LETTERS = 5
_SUFFIXES = ("ing", "ed", "es", "s", "ly", "e")  # taken off where three letters are left

# words of grammar, of politeness and of hesitation, and verbs that say little by themselves
_STOP_WORDS = """
a about above across actually after again against ago ah all almost along already also although always am among an
and another any anybody anyone anything anyway are around as at away back be became because become been before
behind being below between both but by came can cannot come comes coming could did do does doing done down during
each ehm either else enough even ever every everybody everyone everything few for from further gave get gets getting
give gives giving go goes going gone gonna got had has have having he hello her here hers herself hey hi him himself
his hmm how however huh i if in indeed instead into is it its itself just keep keeps kept kind know knows known last
least less let lets like likely lot lots made make makes making many may maybe me mean means might mine more most
much must my myself near need needs neither never next no nobody none nor not nothing now of off often oh ok okay on
once one ones only onto or other others ought our ours ourselves out over own per perhaps please probably put puts
quite rather really right said same saw say saying says see seem seemed seems seen several shall she should since so
some somebody somehow someone something sometimes somewhere soon sort sorry still stuff such sure take taken takes
taking tell tells than thank thanks that the their theirs them themselves then there therefore these they thing
things think thinking thinks this those though through thus to today together told too took toward towards try
trying under until unless up upon us use used using usually very via wanna want wanted wants was way ways we well
went were what whatever when whenever where wherever whether which while who whoever whole whom whose why will with
within without would yeah yes yet you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
# don't, it's, they've: a stop word with its ending, and friend's: a word with one
_CONTRACTIONS = ("n't", "'s", "'m", "'re", "'ve", "'ll", "'d")
_IRREGULAR = frozenset(("can't", "won't", "shan't", "ain't"))


def lower_words(text: str) -> list[str]:
    """Return the words of a text in order, without case and with plain apostrophes."""
    return [word.casefold().replace("’", "'") for word in words(text)]


def content_words(spoken: Iterable[str]) -> set[str]:
    """Return the stems of the content words among what `lower_words` returns."""
    uncontracted = {_without_contraction(word) for word in spoken}
    return {stem(word) for word in uncontracted - STOP_WORDS if len(word) > 1 or not word.isascii()}


def stem(word: str) -> str:
    """Return the stem of a word in lower case, at most five letters long."""
    suffix = next((end for end in _SUFFIXES if word.endswith(end) and len(word) - len(end) >= 3), "")
    word = word.removesuffix(suffix)
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    if len(word) > 3 and word[-1] == "y":
        word = word[:-1] + "i"
    return word[:STEM_LETTERS]


def cosine(first: set[str], second: set[str]) -> float:
    """Return the cosine of two sets, |a ∩ b| / √(|a| |b|), in [0, 1]; 0 where one is empty."""
    return len(first & second) / math.sqrt(len(first) * len(second)) if first and second else 0.0


def _without_contraction(word: str) -> str:
    if "'" not in word:
        return word
    if word in _IRREGULAR:
        return "not"
    return next((word.removesuffix(ending) for ending in _CONTRACTIONS if word.endswith(ending)), word)

"""Template rationales for the warm start.

A model that never writes `<reasoning>…</reasoning><answer>…</answer>` earns no reward, so GRPO has nothing to
compare. The warm start (task sft) shows it the format. Its rationales are NOT human reasoning and contain no
knowledge about emotions: they quote the words of a text that went most often with its label in the rows at
hand, inside one of four fixed sentences. What reasoning is worth the model finds out later, by reward. The
label itself is not named in the rationale (unless the text says it): the answer has to follow from the words
quoted.

Words are scored by the share of the rows containing them that carry the label, with `_PRIOR` imaginary rows
of the average label mixed in, so that a word seen once does not outrank one seen twenty times.
"""

import re
import zlib
from collections import Counter

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_LONGEST_WORD = 20
_QUOTED = 3
_PRIOR = 5

# At least five words each, so that a rationale has 6 to 14 words and needs about as many tokens.
_SENTENCES = (
    "The feeling shows in words like {}.",
    "The telling words here are {}.",
    "What stands out here is {}.",
    "It comes through most in {}.",
)


def label_shares(rows: list[dict]) -> dict[tuple[str, str], float]:
    """Return `{(word, label): share}` in (0, 1] for every word that occurs with a label.

    Args:
        rows: dicts with `text` and `label`. A word counts once per row, in lower case.
    """
    labels = Counter(row["label"] for row in rows)
    pairs = Counter((word, row["label"]) for row in rows for word in set(_words(row["text"])))
    totals = Counter()
    for (word, _), count in pairs.items():
        totals[word] += count
    return {
        (word, label): (count + _PRIOR * labels[label] / len(rows)) / (totals[word] + _PRIOR)
        for (word, label), count in pairs.items()
    }


def rationale(text: str, label: str, shares: dict[tuple[str, str], float]) -> str:
    """Return one sentence of 6 to 14 words that quotes up to three telling words of `text`, in text order.

    A template, not human reasoning: see the module's docstring. The same arguments give the same sentence.

    Args:
        text: a clean, non-empty text. Without any letters its first 20 characters up to a space are quoted.
        label: the text's label.
        shares: the result of `label_shares`; a missing word counts as 0. Of equals the longer is quoted.
    """
    words = list(dict.fromkeys(_words(text))) or [text.split()[0][:_LONGEST_WORD]]
    best = sorted(words, key=lambda word: (-shares.get((word, label), 0.0), -len(word)))[:_QUOTED]
    *head, last = sorted(best, key=words.index)
    quoted = f"{', '.join(head)} and {last}" if head else last
    # zlib.crc32, because hash() of a string differs from process to process.
    return _SENTENCES[zlib.crc32(text.encode()) % len(_SENTENCES)].format(quoted)


def _words(text: str) -> list[str]:
    """Return the words of `text` in lower case; longer runs of letters than `_LONGEST_WORD` are no words."""
    return [word for word in _WORD.findall(text.lower()) if len(word) <= _LONGEST_WORD]

"""Does a text say something, or does it say again what was said? The share of its word trigrams that stand elsewhere."""

from collections.abc import Iterable

from empathy_trl.words import ngrams

# of a text's trigrams that may stand elsewhere without a loss: taking up somebody's phrase is a way of listening
FREE = 0.25


def originality(spoken: list[str], sources: Iterable[list[str]]) -> float:
    """Return 1 for a text of which at most a quarter is copied, falling linearly to 0 for one that is copied entirely.

    What counts as copied is a trigram of the text that stands in one of the sources; of a text of one or two words, all
    of it. Swapping words here and there breaks trigrams: a paraphrase is not found.

    Args:
        spoken: words of the text, as `content_words.lower_words` returns them.
        sources: words of what was said before.
    """
    n = min(3, len(spoken))
    if n == 0:
        return 0.0
    known = {gram for source in sources for gram in ngrams(source, n)}
    grams = ngrams(spoken, n)
    copied = sum(gram in known for gram in grams) / len(grams)
    return min(1.0, (1 - copied) / (1 - FREE))

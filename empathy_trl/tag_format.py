"""How far a text is written as asked: every tag of a list once, in order, with nothing outside. For rewards and metrics alike."""

import itertools
from collections.abc import Sequence


def format_credit(text: str, tags: Sequence[str]) -> float:
    """Return (w + o + c) / (n + 2) for n tags, in [0, 1], where

    * w is how many tags are well-formed: one opening, one closing after it, and something other than space
      and tags between them;
    * o is 1 if all are well-formed and they stand in order, one ending before the next begins;
    * c is 1 if o is 1 and there is only white space outside the tags.

    So 1 means that everything is right, and an empty text or one without tags gets 0.

    Args:
        text: of a completion.
        tags: names in the expected order, at least one, all different.
    """
    spans = [_span(text, tag, tags) for tag in tags]
    well_formed = sum(span is not None for span in spans)
    in_order = well_formed == len(spans) and all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    clean = in_order and not _outside(text, spans).strip()
    return (well_formed + in_order + clean) / (len(spans) + 2)


def _span(text: str, tag: str, tags: Sequence[str]) -> tuple[int, int] | None:
    """Return where a well-formed tag begins and ends (just after it), None if there is none."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.index(opening), text.index(closing)
    body = text[start + len(opening) : end]
    for other in tags:
        body = body.replace(f"<{other}>", "").replace(f"</{other}>", "")
    return (start, end + len(closing)) if body.strip() else None


def _outside(text: str, spans: list[tuple[int, int]]) -> str:
    """Return what is left of a text without the spans, which are in order."""
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    return "".join(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))

"""Is the completion written as asked, `<reasoning>…</reasoning><answer>…</answer>` and nothing else?"""

import itertools
import re
from dataclasses import dataclass, field

from empathy_trl.errors import UserError
from empathy_trl.tags import completion_text


@dataclass
class Format:
    """1 if every tag of a list occurs once, in order, not empty, not nested, with nothing outside.

    White space outside the tags is free. Range: {0, 1}. With `partial`, credit in [0, 1] for n tags is
    (w + o + c) / (n + 2), where

    * w is how many tags are well-formed: one opening, one closing after it, and something other than space
      and tags between them;
    * o is 1 if all are well-formed and they stand in order, one ending before the next begins;
    * c is 1 if o is 1 and there is only white space outside the tags.

    So 1 still means that everything is right, and an empty completion or one without tags gets 0.

    Args:
        tags: names in the expected order.
        partial: give credit for a part.
    """

    tags: list[str] = field(default_factory=lambda: ["reasoning", "answer"])
    partial: bool = False

    __name__ = "format"

    def __post_init__(self):
        if not self.tags or len(set(self.tags)) < len(self.tags):
            raise UserError(f"tags: expected different names, at least one, got {self.tags}")
        for tag in self.tags:
            if not re.fullmatch(r"[\w-]+", tag):
                raise UserError(f"tags: {tag!r} is not a tag name (letters, digits, _ and -, without < and >)")

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        credits = [self._credit(completion_text(completion)) for completion in completions]
        return credits if self.partial else [float(credit == 1) for credit in credits]

    def _credit(self, text: str) -> float:
        """Return (w + o + c) / (n + 2), see the class."""
        spans = [self._span(text, tag) for tag in self.tags]
        well_formed = sum(span is not None for span in spans)
        in_order = well_formed == len(spans) and all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        clean = in_order and not self._outside(text, spans).strip()
        return (well_formed + in_order + clean) / (len(spans) + 2)

    def _span(self, text: str, tag: str) -> tuple[int, int] | None:
        """Return where a well-formed tag begins and ends (just after it), None if there is none."""
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return None
        start, end = text.index(opening), text.index(closing)
        body = text[start + len(opening) : end]
        for other in self.tags:
            body = body.replace(f"<{other}>", "").replace(f"</{other}>", "")
        return (start, end + len(closing)) if body.strip() else None

    def _outside(self, text: str, spans: list[tuple[int, int]]) -> str:
        """Return what is left of a text without the spans, which are in order."""
        edges = [0, *(edge for span in spans for edge in span), len(text)]
        return "".join(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))

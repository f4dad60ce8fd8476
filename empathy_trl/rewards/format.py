"""Is the completion written as asked, `<reasoning>…</reasoning><answer>…</answer>` and nothing else?"""

import re
from dataclasses import dataclass, field

from empathy_trl.errors import UserError
from empathy_trl.tag_format import format_credit
from empathy_trl.tags import completion_text


@dataclass
class Format:
    """1 if every tag of a list occurs once, in order, not empty, not nested, with nothing outside.

    White space outside the tags is free. Range: {0, 1}. With `partial`, credit in [0, 1] for a part of it, see
    `tag_format.format_credit`; 1 still means that everything is right.

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
        credits = [format_credit(completion_text(completion), self.tags) for completion in completions]
        return credits if self.partial else [float(credit == 1) for credit in credits]

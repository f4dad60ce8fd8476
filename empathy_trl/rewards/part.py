"""One part of a reply that reacts, responds and reflects, for rewards that pay for a part whatever the others look like."""

from empathy_trl.parts import PARTS
from empathy_trl.tags import completion_text, tag_bodies, tag_marks

_MARKS = tag_marks(PARTS)


def part_text(completion: str | list[dict], part: str) -> str:
    """Return the stripped body of one part; "" unless it is there once, closed, and without another part's tags in it.

    A broken part earns nothing and leaves the other parts what they earn; the whole is the business of `stage_format`.
    """
    text = completion_text(completion)
    if text.count(f"<{part}>") != 1 or text.count(f"</{part}>") != 1:
        return ""
    bodies = tag_bodies(text, part)
    return bodies[0] if bodies and not any(mark in bodies[0] for mark in _MARKS) else ""

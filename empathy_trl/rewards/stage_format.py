"""Is the reply written in its three parts, `<react>…</react><respond>…</respond><reflect>…</reflect>`, and nothing else?"""

from dataclasses import dataclass, field

from empathy_trl.parts import PARTS
from empathy_trl.rewards.format import Format


@dataclass
class StageFormat(Format):
    """`Format` for the three parts of a reply, with credit for a part of it by default: `tag_format.format_credit`.

    1 is what `parts.read_parts` calls well-formed: every tag once, in order, none empty, only white space outside.

    Range: [0, 1]; 0 for an empty completion.

    Args:
        tags: names in the expected order.
        partial: give credit for a part; otherwise 1 or 0.
    """

    tags: list[str] = field(default_factory=lambda: list(PARTS))
    partial: bool = True

    __name__ = "stage_format"

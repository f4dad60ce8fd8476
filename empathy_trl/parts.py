"""The three parts of a reply that react, respond and reflect: what is seen at once, what is said, what is thought.

    <react>*expression* + *posture*</react>
    <respond>words</respond>
    <reflect>thought for the next turn</reflect>

Data, rewards, evaluation and chat all read a reply through these functions, so that what earns a reward is what is
trained on and shown. The format is that of EMPATH (leonvanbokhorst/react-respond-reflect-v1).
"""

import re

from empathy_trl.tags import completion_text, tag_bodies, tag_marks

PARTS = ("react", "respond", "reflect")
REACT, RESPOND, REFLECT = PARTS

_WHOLE = re.compile(r"\s*".join(["", *(rf"<{part}>(.*?)</{part}>" for part in PARTS), ""]), flags=re.DOTALL)
_MARKS = tag_marks(PARTS)
_MARK = re.compile(rf"</?(?:{'|'.join(PARTS)})>")


def read_parts(text: str) -> dict[str, str] | None:
    """Return part -> its stripped text, in the order of `PARTS`; None unless the reply is well-formed.

    Well-formed is: every tag once, in order, only white space outside of them, nothing empty. These are the replies to which
    the reward `stage_format` gives 1.
    """
    # counted first: with any number of tags, the pattern would try all ways to match them
    found = _WHOLE.fullmatch(text) if len(_MARK.findall(text)) == 2 * len(PARTS) else None
    if found is None:
        return None
    bodies = [body.strip() for body in found.groups()]
    return dict(zip(PARTS, bodies, strict=True)) if all(bodies) else None


def part_text(completion: str | list[dict], part: str) -> str:
    """Return the stripped body of one part; "" unless it is there once, closed, and without another part's tags in it.

    For what looks at one part, whatever the others are like: a broken part earns nothing and leaves the other parts what they
    earn. The whole is the business of `read_parts`.
    """
    text = completion_text(completion)
    if text.count(f"<{part}>") != 1 or text.count(f"</{part}>") != 1:
        return ""
    bodies = tag_bodies(text, part)
    return bodies[0] if bodies and not any(mark in bodies[0] for mark in _MARKS) else ""


def write_parts(parts: dict[str, str]) -> str:
    """Return a reply with the given parts, a line each, in the order of `PARTS`; parts that are not given are left out."""
    return "\n".join(f"<{part}>{parts[part]}</{part}>" for part in PARTS if part in parts)


def without_reflection(text: str) -> str:
    """Return a reply without what was thought, for a history that does not keep it; one that is not well-formed as it is."""
    parts = read_parts(text)
    if parts is None:
        return text
    return write_parts({part: parts[part] for part in (REACT, RESPOND)})

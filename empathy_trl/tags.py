"""Reading completions: their text, tags in it such as `<reasoning>…</reasoning><answer>sad</answer>`, and the reply.

Rewards, metrics and chat all read a completion through these functions, so that what earns a reward is what is counted
in an evaluation.
"""

import re
from collections.abc import Iterable, Sequence

REPLY_TAGS = ("answer", "respond")
# not what stands for an address or a film's title: a person's reply may hold these
_OTHER_TAGS = re.compile(r"</?(?!url>|email>|movie>)\w+>")


def tag_marks(tags: Iterable[str]) -> list[str]:
    """Return `<tag>` and `</tag>` of every tag, in order."""
    return [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]


def tag_bodies(text: str, tag: str) -> list[str]:
    """Return the stripped body of every `<tag>…</tag>` in `text`, in order; empty when there is none."""
    return [body.strip() for body in re.findall(rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", text, flags=re.DOTALL)]


def completion_text(completion: str | list[dict]) -> str:
    """Return the text of a completion (or prompt) as TRL hands it to rewards: a string, or a list of chat messages.

    A message without content (None, as in a tool call) counts as empty; of a message in parts, the text parts count.
    """
    if isinstance(completion, str):
        return completion
    return "".join(_content(message) for message in completion)


def reply_text(completion: str | list[dict], tags: Sequence[str] = REPLY_TAGS) -> str:
    """Return what a completion says to the user, stripped; "" where it says nothing that can be told apart.

    * One well-formed tag of `tags`: its body, without any tags inside it.
    * None of them, opening or closing: the whole completion.
    * Anything else (unclosed, repeated, one inside the other): "". What is broken earns what an empty reply earns.

    Args:
        completion: a string or chat messages.
        tags: names of the tags that hold the reply; empty takes the whole completion in any case.
    """
    text = completion_text(completion)
    marks = [mark for tag in tags for mark in re.findall(rf"</?{re.escape(tag)}>", text)]
    if not marks:
        return text.strip()
    bodies = [body for tag in tags for body in tag_bodies(text, tag)]
    if len(marks) != 2 or len(bodies) != 1:
        return ""
    return _OTHER_TAGS.sub(" ", bodies[0]).strip()


def user_text(prompt: str | list[dict]) -> str:
    """Return what the user said last: the content of the last user message, or a plain prompt as it is, stripped."""
    if isinstance(prompt, str):
        return prompt.strip()
    return next((_content(message).strip() for message in reversed(prompt) if message["role"] == "user"), "")


def _content(message: dict) -> str:
    content = message["content"]
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""

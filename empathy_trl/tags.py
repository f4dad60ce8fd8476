"""Reading tagged completions such as `<reasoning>…</reasoning><answer>sad</answer>`.

Rewards, metrics and chat all read a completion through these two functions, so that what earns a reward is what is
counted in an evaluation.
"""

import re


def tag_bodies(text: str, tag: str) -> list[str]:
    """Return the stripped body of every `<tag>…</tag>` in `text`, in order; empty when there is none."""
    return [body.strip() for body in re.findall(rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", text, flags=re.DOTALL)]


def completion_text(completion: str | list[dict]) -> str:
    """Return the text of a completion as TRL hands it to rewards: a string, or a list of chat messages."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion)

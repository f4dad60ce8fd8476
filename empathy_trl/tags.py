"""Formats of prompts and completions: tags, answers, thoughts, JSON, replies in three parts, and chat templates.

Rewards, metrics, data and chat all read a completion through these functions, so a reward, an evaluation and the user
see the same reply.

A completion is a text, or a list of chat messages. It may hold tags, each with a body:

    <reasoning>She cried all night.</reasoning><answer>sad</answer>

`read_answer` returns the label in `<answer>`, `is_grounded` whether the reasoning names words of the text it is about,
`reply_text` the text for the user, and `format_credit` how far all tags have the required form. A reply in three parts, the format of EMPATH (leonvanbokhorst/react-respond-reflect-v1), shows a
reaction, says the response, and keeps a thought for the next turn:

    <react>*expression* + *posture*</react>
    <respond>words</respond>
    <reflect>thought for the next turn</reflect>

`read_parts` reads a reply in which all three parts are well-formed; `part_text` reads a single part and ignores the
others.

A reasoning model writes a thought before its reply, between the marks of `THOUGHTS`. The user does not see it, and the
functions here ignore it: they call `without_thoughts` first. `read_json` reads the JSON in a model's text, such as a judge's answer.
"""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from empathy_trl.io import user_path
from empathy_trl.text import content_words, lower_words, ngrams

REPLY_TAGS = ("answer", "respond")
THOUGHT = "think"  # the part of a reply that is thought, whatever its marks are
# what begins a thought -> what ends it: Qwen3, DeepSeek-R1, SmolLM3, GLM and most others; Magistral and Ministral
THOUGHTS = {"<think>": "</think>", "[THINK]": "[/THINK]"}
THOUGHT_MARKS = (*THOUGHTS, *THOUGHTS.values())
_THOUGHT_MARK = re.compile("|".join(map(re.escape, THOUGHT_MARKS)))
_THOUGHT = re.compile(
    "|".join(rf"{re.escape(begin)}.*?(?:{re.escape(end)}|\Z)" for begin, end in THOUGHTS.items()), flags=re.DOTALL
)
# not what stands for an address or a film's title: a person's reply may hold these
_OTHER_TAGS = re.compile(r"</?(?!url>|email>|movie>)\w+>")


def tag_marks(tags: Iterable[str]) -> list[str]:
    """Return `<tag>` and `</tag>` of every tag, in order."""
    return [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]


def tag_bodies(text: str, tag: str) -> list[str]:
    """Return the stripped body of every `<tag>…</tag>` in `text`, in order; empty when there is none."""
    return [body.strip() for body in re.findall(rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", text, flags=re.DOTALL)]


def completion_text(completion: str | list[dict], thoughts: bool = False) -> str:
    """Return the text of a completion as TRL hands it to rewards: a string, or a list of chat messages.

    A message without content (None, as in a tool call) counts as empty. If a message has parts, its text parts count.

    Args:
        completion: may also be turns of a prompt; thoughts are only removed from the assistant's turns.
        thoughts: keep thoughts; by default they are removed, see `without_thoughts`.
    """
    if isinstance(completion, str):
        return completion if thoughts else without_thoughts(completion)
    texts = [(message.get("role", "assistant"), content_text(message["content"])) for message in completion]
    return "".join(text if thoughts or role != "assistant" else without_thoughts(text) for role, text in texts)


def content_text(content: str | list | None) -> str:
    """Return the text of a message's content: a text, None (""), or a list of parts, whose texts are joined.

    Raises:
        TypeError: the content is something else.
    """
    if isinstance(content, list):
        if all(isinstance(part, dict) and isinstance(part.get("text"), str | None) for part in content):
            return "".join(part.get("text") or "" for part in content)
    elif isinstance(content, str | None):
        return content or ""
    raise TypeError(f"content: {type(content).__name__}, expected a text or a list of parts")


def without_thoughts(text: str) -> str:
    """Return a model's text without its thoughts, as the user reads it. A text without thoughts is returned unchanged.

    A thought is what stands between two marks of `THOUGHTS`, `<think>…</think>` in most models. If it is not closed, it extends
    to the end of the text, so that the reply is empty. A `</think>` without an opening tag ends a thought that the prompt has
    opened, as some models' chat templates do.
    """
    if not _THOUGHT_MARK.search(text):
        return text
    text = _THOUGHT.sub("", text)
    for end in THOUGHTS.values():
        text = text.rpartition(end)[2]
    return text.lstrip()


def open_thought(text: str) -> str:
    """Return the mark that begins the thought in which a text ends; "" if the text does not end inside a thought."""
    begun = ""
    for mark in _THOUGHT_MARK.findall(text):
        if not begun and mark in THOUGHTS:
            begun = mark
        elif begun and mark == THOUGHTS[begun]:
            begun = ""
    return begun


def thoughts_end(text: str) -> int:
    """Return the number of characters up to the end of the last thought; 0 for a text without thoughts."""
    if open_thought(text):
        return len(text)
    return max((mark.end() for mark in _THOUGHT_MARK.finditer(text)), default=0)


def thought_text(completion: str | list[dict]) -> str:
    """Return what stands in a completion up to the end of its last thought, without marks; "" if it has no thought."""
    text = completion_text(completion, thoughts=True)
    return _THOUGHT_MARK.sub(" ", text[: thoughts_end(text)]).strip()


def read_json(text: str) -> Any:
    """Return the JSON value in a model's answer. Thoughts, and a code fence or text around the value, are ignored.

    If there is a fence or text around it, the part from the first brace to the last must be one object.

    Raises:
        ValueError: no JSON, several objects, a member that occurs twice, or NaN.
        RecursionError: very deep nesting.
    """
    text = without_thoughts(text).strip()
    try:
        return _strict_json(text)
    except (ValueError, RecursionError):
        start, end = text.find("{"), text.rfind("}")
        if start < 0 or (start, end) == (0, len(text) - 1):
            raise
        return _strict_json(text[start : end + 1])


def _strict_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_no_repetition, parse_constant=_no_constant)


def _no_repetition(members: list[tuple]) -> dict:
    if len(dict(members)) < len(members):
        raise ValueError("a member occurs twice")
    return dict(members)


def _no_constant(name: str):
    raise ValueError(f"{name} is no JSON")


def read_number(value: Any) -> int | float | None:
    """Return a JSON value as a number; models also write numbers as texts (`"4"`). None for other values (`"4/5"`, true)."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{1,15})?\s*", value):
        return float(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def reply_text(completion: str | list[dict], tags: Sequence[str] = REPLY_TAGS) -> str:
    """Return what a completion says to the user, stripped; "" where it says nothing that can be told apart.

    * One well-formed tag of `tags`: its body, without any tags inside it.
    * None of them, opening or closing: the whole completion without its thoughts.
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


def read_answer(completion: str | list[dict], labels: Sequence[str]) -> str | None:
    """Return the label that a completion answers: the body of its only `<answer>`; None if that is not one of the labels.

    No such tag, several, or a body that is no label make an answer invalid. `match_label` says which body is a label.
    """
    bodies = tag_bodies(completion_text(completion), "answer")
    return match_label(bodies[0], labels) if len(bodies) == 1 else None


def match_label(word: str, labels: Sequence[str]) -> str | None:
    """Return the label that a word names, in any case and without the space around it; None for another word."""
    word = word.strip().lower()
    return next((label for label in labels if label.strip().lower() == word), None)


# single quotes stand outside of words, where an apostrophe does not: 'the dogs' is a quotation, dogs' is none
_QUOTATION = re.compile(r"""["“”„«»]([^"“”„«»]+)["“”«»]|(?<!\w)['‘‚](.+?)['’](?!\w)""", flags=re.DOTALL)
LONGEST_PASSAGE = 8
# words of the question and of the warm start's template: in a reasoning, they say nothing about the text
_FRAME_WORDS = """
emotion emotions express expresses feel feeling feelings feels felt person situation telling text word words
"""
_FRAME = frozenset(_FRAME_WORDS.split())


def is_grounded(completion: str | list[dict], text: str, labels: Sequence[str]) -> bool:
    """Return whether the reasoning of a completion names words of the text that it is about.

    * The completion has one `<reasoning>…</reasoning>`, the only part that is read.
    * All words in quotation marks stand in the text.
    * At least one content word stands in the text: among the words in quotation marks or, without any, among all words. A
      content word is no function word (`text.STOP_WORDS`), no label and no word of the question, such as `feels`.
    * The reasoning is no copy: no passage of more than `LONGEST_PASSAGE` words is the text's, and not the whole text.

    Words are compared whole, without case, with plain apostrophes and without `'s`. That a reasoning names a word of the text
    does not make it right: the word may be a common one.

    Args:
        completion: a string or chat messages.
        text: what the model was asked about.
        labels: the possible answers.
    """
    bodies = tag_bodies(completion_text(completion), "reasoning")
    if len(bodies) != 1:
        return False
    heard, spoken = _bare_words(text), _bare_words(bodies[0])
    quoted = _bare_words(" ".join("".join(pair) for pair in _QUOTATION.findall(bodies[0])))
    if not set(quoted) <= set(heard):
        return False
    passage = max(1, min(LONGEST_PASSAGE, len(heard) - 1)) + 1
    if set(ngrams(heard, passage)) & set(ngrams(spoken, passage)):
        return False
    named = set(quoted or spoken) & set(heard) - _FRAME - {label.strip().casefold() for label in labels}
    return bool(content_words(named))


def _bare_words(text: str) -> list[str]:
    return [word.removesuffix("'s") for word in lower_words(text)]


def user_text(prompt: str | list[dict]) -> str:
    """Return what the user said last: the content of the last user message, or a plain prompt as it is, stripped."""
    if isinstance(prompt, str):
        return prompt.strip()
    return next((content_text(turn["content"]).strip() for turn in reversed(prompt) if turn["role"] == "user"), "")


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
    text = without_thoughts(text)
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
    text = without_thoughts(text)
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


KNOWLEDGE = "[KNOWLEDGE]"  # begins the last line of the system message, where there is knowledge
CHAT_TEMPLATES = {
    "godel": (
        "{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\n') -%}"
        "{%- set turns = messages | rejectattr('role', 'equalto', 'system') | map(attribute='content') -%}"
        "{%- set parts = ('\n' ~ system).split('\n" + KNOWLEDGE + "', 1) -%}"
        "{{- (parts[0] | trim ~ ' [CONTEXT] ' ~ turns | map('trim') | join(' EOS ')) | trim -}}"
        "{%- if parts | length > 1 -%}{{- ' " + KNOWLEDGE + " ' ~ parts[1] | trim -}}{%- endif -%}"
        "{{- eos_token -}}"
    ),
    "chatml": (
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>' ~ '\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
    ),
}
TURN_END = "<|im_end|>"  # of ChatML


def template_file(choice: str | None) -> Path | None:
    """Return the Jinja file that `model.chat_template` names; None for any other choice."""
    return user_path(choice) if choice is not None and choice.endswith(".jinja") else None


_JOIN_TURNS = """\
{%- set joined = namespace(turns=[]) -%}
{%- for turn in messages -%}
    {%- set last = joined.turns[-1] if joined.turns else {} -%}
    {%- if last.role == turn.role and last.content is string and turn.content is string -%}
        {%- set both = {'role': turn.role, 'content': last.content ~ '\\n\\n' ~ turn.content} -%}
        {%- set joined.turns = joined.turns[:-1] + [both] -%}
    {%- else -%}
        {%- set joined.turns = joined.turns + [turn] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = joined.turns %}
"""
_SYSTEM_TO_USER = """\
{%- if messages and messages[0].role == 'system' and messages[0].content is string -%}
    {%- set instruction, rest = messages[0].content, messages[1:] -%}
    {%- if rest and rest[0].role == 'user' and rest[0].content is string -%}
        {%- set instruction, rest = instruction ~ '\\n\\n' ~ rest[0].content, rest[1:] -%}
    {%- endif -%}
    {%- set messages = [{'role': 'user', 'content': instruction}] + rest -%}
{%- endif %}
"""
_SYSTEM_FIRST = """\
{%- if messages[1:] and messages[0].role == 'system' and messages[1].role == 'assistant' -%}
    {%- set messages = [{'role': 'user', 'content': messages[0].content}] + messages[1:] -%}
{%- endif %}
"""


class Repair(NamedTuple):
    """How messages are rewritten for a chat template that refuses them; see `models.templates.guard_template`.

    Attributes:
        tried: roles of a conversation that is rendered to test whether a template needs the repair.
        needed: pattern for the roles of the conversations that the repair changes, such as "system user".
        jinja: code that is put in front of the template. Its last line break belongs to the block before it.
    """

    tried: tuple[str, ...]
    needed: str
    jinja: str


# description for messages -> repair; the instruction is placed as in the Gemma family
REPAIRS = {
    "consecutive turns of one role are joined": Repair(("user", "user"), r"\b(\w+) \1\b", _JOIN_TURNS),
    "the system message opens the user's first turn": Repair(("system", "user"), r"^system", _SYSTEM_TO_USER),
    "the system message is the user's first turn where the assistant begins": Repair(
        ("system", "assistant", "user"), r"^system assistant", _SYSTEM_FIRST
    ),
}


def repairs_in(template: str, conversations: Iterable[list[dict]]) -> list[str]:
    """Return the descriptions of the `REPAIRS` in a guarded chat template that change any of these conversations."""
    roles = {" ".join(turn["role"] for turn in turns) for turns in conversations}
    return [
        words
        for words, repair in REPAIRS.items()
        if words in template and any(re.search(repair.needed, each) for each in roles)
    ]

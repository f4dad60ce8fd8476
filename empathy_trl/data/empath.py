"""EMPATH: dialogues in which every turn of the assistant reacts, responds and reflects (see `tags.py`).

Every assistant turn is an example: the prompt is the dialogue so far, the reference is the turn, and the user's next
turn shows whether the reflection anticipated it. Sources are the embedded corpus ("sample"), a JSON Lines file, a
folder with one such file or with train, valid and test files, or a Hub id with a column `messages`, such as
leonvanbokhorst/react-respond-reflect-v1. A single file, or a Hub id with a single split, is split 90/10 by conversation
(see `tables.py`).

A row is `{"conversation_id", "messages": [{"role", "content"}], "emotion"}`; only the messages are required.
`tags.read_parts` decides whether a reply is well-formed, and `fault` names the defect of one that is not. The data
report counts defects by that name.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

from empathy_trl.data.base import Corpus, Messages, Report, check_split, usable_rows
from empathy_trl.data.dialogues import optional_text
from empathy_trl.data.redial import conversation_of
from empathy_trl.data.sources import Published
from empathy_trl.data.tables import WEIGHT, BadRow, Row, Table, check_columns, split_table, with_weight
from empathy_trl.errors import DataError, show
from empathy_trl.tags import PARTS, RESPOND, read_parts, without_reflection, write_parts
from empathy_trl.text import clean, count_words, newest_turns, truncate_start

SYSTEM = (
    "You talk with somebody about what moves them. Every reply of yours has three parts.\n"
    "react: what shows before you speak, your facial expression and your posture, each in asterisks, at most 20 words in all.\n"
    "respond: what you say to them, 30 to 150 words.\n"
    "reflect: what you think and never say: how they are, and what they may say next, 20 to 100 words.\n"
    "Write them like this, and nothing else:\n"
    "<react>*facial expression* + *posture*</react>\n<respond>spoken words</respond>\n<reflect>private thought</reflect>"
)
OTHERS = 4  # turns of other users beside the user's next one
OTHERS_SEED = 42  # not the recipe's: runs that differ in their seed are measured against the same turns
ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Dialogue:
    """A dialogue whose messages are in order; what the assistant wrote is not looked at yet.

    Attributes:
        where: how messages name its row.
        conversation: its id, or the name of the row where it has none.
        emotion: of the whole dialogue, if the source tells.
        has_system: whether a system message came first; it is left out.
        users: the clean turns of the user, who begins.
        replies: the turns of the assistant as they are, as many as `users` or one less.
    """

    where: str
    conversation: str
    emotion: str | None
    has_system: bool
    users: list[str]
    replies: list[str]


class Empath(Corpus):
    """Turns of an assistant. Rows: the columns below, and `history` (see `make_prompt`) in place of `prompt`.

    | column | what it holds |
    |---|---|
    | `prompt` | system message, the exchanges before, the user's turn |
    | `text` | the user's turn |
    | `reference` | the spoken part of the assistant's turn |
    | `turn` | the whole turn, as `tags.write_parts` writes it |
    | `next_user` | the user's next turn, or None |
    | `other_users` | four user's turns from as many other dialogues of the split, none equal to `next_user`; fewer where there are fewer |
    | `conversation` | id of the dialogue, or the name of its row |
    | `emotion` | of the dialogue, or None |
    | `completion` | for task "sft": the whole turn as a message |
    """

    tasks = ("sft", "grpo", "ppo")
    settings = ("instruction", "max_words", "reflections")
    needs = ("messages",)
    nested = True
    # a split may have no next turn at all
    types: ClassVar[dict] = {"turn": "string", "next_user": "string", "other_users": ["string"]}
    sample = "sample/empath"
    expected = "a file of JSON Lines, a folder with one or with train, valid and test files, or a Hub id"
    evaluation = "staged"
    reply_tags = PARTS
    published = Published(
        "leonvanbokhorst/react-respond-reflect-v1",
        None,
        "its page names none",
        "written dialogues, mostly by a language model, for the system EMPATH",
    )
    local_hint = "react-respond-reflect, see the licence of its repository"
    writes = (
        "answers in a conversation in three parts: a reaction that shows at once (face and posture), what is said, and a "
        "thought that is not said and that its next answer builds on"
    )
    follows = "EMPATH (react, respond, reflect) by Leon van Bokhorst"
    says = "I keep thinking about the exam that I failed yesterday."

    def read_split(self, config, split: str) -> tuple[list[dict], Report]:
        """Return the assistant's turns of one split, and a `Report` that counts turns.

        Together history and user's turn have `max_words` words, see `shorten`. `config.portion` is one of the turns. Messages
        that are no dialogue make one bad row; so does a malformed turn, and what comes after it in its dialogue is not used
        either, because it would stand in every later prompt.

        Raises what `Corpus.read_split` raises, and `DataError` when the assistant never answers.
        """
        check_split(split)
        table = self.read_table(config, split)
        check_columns(table.source, table.columns, self.needs)
        read = [row if isinstance(row, BadRow) else read_dialogue(row) for row in table.rows]
        dialogues = [each for each in read if isinstance(each, Dialogue)]
        others = _OtherUsers(dialogues)
        turns, notes = [], Counter(dialogues=len(dialogues))
        for row, each in zip(table.rows, read, strict=True):
            rows = [each] if isinstance(each, BadRow) else _turns(each, config, others, notes)
            turns += [with_weight(turn, row) for turn in rows]
        if not turns:
            raise DataError(f"{table.source}: the assistant answers in none of {len(dialogues)} dialogues")
        table = Table(table.source, table.columns, turns)
        rows, report = usable_rows(config, split, table, lambda row: self.parse(row, config), texts=())
        shortened = sum(row.pop("shortened") for row in rows)
        notes = {name: count for name, count in notes.items() if count} | report.notes
        return rows, replace(report, shortened=shortened, notes=notes)

    def read_table(self, config, split: str) -> Table:
        """Return the dialogues of one split; one file, or a Hub id with one split, is split 90/10."""
        source = self.source(config)
        only = source.only()
        return source.split(split) if only is None else _part(only, split)

    def parse(self, row: Row, config) -> dict:
        """Return a turn; `read_split` has made the rows of turns out of dialogues."""
        return {name: value for name, value in row.cells.items() if name != WEIGHT}

    def columns(self, rows: list[dict], config, task: str) -> dict[str, list]:
        """Return the columns of the class's table."""
        prompts = [make_prompt(row["history"], row["text"], config.instruction) for row in rows]
        columns = {"prompt": prompts} | {name: [row[name] for row in rows] for name in rows[0] if name != "history"}
        if task == "sft":
            columns["completion"] = [[{"role": "assistant", "content": row["turn"]}] for row in rows]
        return columns

    def chat_messages(self, data: dict, history: Messages) -> Messages:
        """Return the system message and the history."""
        return [{"role": "system", "content": data.get("instruction") or SYSTEM}, *history]

    def chat_reply(self, data: dict, content: str) -> str:
        """Return the whole reply, without its reflection where the recipe drops them."""
        return without_reflection(content) if data.get("reflections") == "drop" else content


def make_prompt(history: list[tuple[str, str]], text: str, instruction: str | None = None) -> Messages:
    """Return the conversational prompt of a turn: the instruction, what was said before, and the user's turn.

    Args:
        history: (user's turn, assistant's turn) of earlier exchanges, the oldest first.
        text: what the user says now.
        instruction: the system message, in place of `SYSTEM`.
    """
    messages = [{"role": "system", "content": instruction or SYSTEM}]
    for said, answered in history:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    return [*messages, {"role": "user", "content": text}]


def shorten(history: list[tuple[str, str]], text: str, max_words: int) -> tuple[list[tuple[str, str]], str]:
    """Return history and user's turn with `max_words` words together.

    The oldest exchanges go first, whole, so that a user's turn comes first; only where the user's turn alone is too long does
    it lose its own beginning.
    """
    *kept, (last,) = newest_turns(
        [*history, (text,)],
        max_words,
        length=lambda turns: sum(map(count_words, turns)),
        end=lambda turns, limit: (truncate_start(turns[0], limit),),
    )
    return kept, last


def _turns(dialogue: Dialogue, config, others: "_OtherUsers", notes: Counter) -> list[Row | BadRow]:
    """Return a row per turn of the assistant, up to a malformed one; what else there is to know is counted in `notes`."""
    notes["system messages left out"] += dialogue.has_system
    notes["dialogues without an answer"] += not dialogue.replies
    rows, history, whole = [], [], True
    for number, (said, answered) in enumerate(zip(dialogue.users, dialogue.replies, strict=False)):
        where = f"{dialogue.where}, turn {number + 1}"
        parts = turn_parts(where, answered)
        if isinstance(parts, BadRow):
            rows.append(parts)
            whole = False
        elif whole:
            turn = write_parts(parts)
            before, text = shorten(history, said, config.max_words)
            next_user = dialogue.users[number + 1] if number + 1 < len(dialogue.users) else None
            other_users = others.draw(dialogue.conversation, number, next_user)
            notes["turns without other users"] += not other_users
            cells = {
                "history": before,
                "text": text,
                "reference": parts[RESPOND],
                "turn": turn,
                "next_user": next_user,
                "other_users": other_users,
                "conversation": dialogue.conversation,
                "emotion": dialogue.emotion,
                "shortened": (before, text) != (history, said),
            }
            rows.append(Row(where, cells))
            history = [*history, (said, turn if config.reflections == "keep" else without_reflection(turn))]
        else:
            notes["turns after a malformed one"] += 1
    return rows


class _OtherUsers:
    """Draws what users say in other dialogues: the same for a turn whatever else is asked for."""

    def __init__(self, dialogues: list[Dialogue]):
        self._said = {}
        for dialogue in dialogues:
            self._said.setdefault(dialogue.conversation, []).extend(dialogue.users)
        self._order = list(self._said)
        Random(OTHERS_SEED).shuffle(self._order)

    def draw(self, conversation: str, number: int, next_user: str | None) -> list[str]:
        """Return a user's turn from each of `OTHERS` other dialogues, none equal to `next_user`."""
        random = Random(f"{OTHERS_SEED} {conversation} {number}")
        start = random.randrange(len(self._order))
        drawn = []
        for other in self._order[start:] + self._order[:start]:
            fitting = [text for text in self._said[other] if text != next_user] if other != conversation else []
            if fitting:
                drawn.append(random.choice(fitting))
            if len(drawn) == OTHERS:
                break
        return drawn


def _part(table: Table, split: str) -> Table:
    """Return the rows of one part of a table without splits; a row without an id is a conversation of its own."""
    groups = [conversation_of(row) or number for number, row in enumerate(table.rows)]
    return split_table(table, groups, "conversation", split)[0]


class _Unusable(ValueError):
    """What is wrong with a dialogue: reason and detail of its `BadRow`."""


def read_dialogue(row: Row) -> Dialogue | BadRow:
    """Return the dialogue of a row; a `BadRow` where the messages are no dialogue, or id or emotion are no text."""
    emotion = optional_text(row, "emotion")
    if isinstance(emotion, BadRow):
        return emotion
    try:
        messages = _messages(row.cells.get("messages"))
        identity = _identity(row.cells.get("conversation_id"))
        has_system = bool(messages) and messages[0][0] == "system"
        turns = messages[has_system:]
        _check_roles(turns, has_system)
        users = [_user_text(text, has_system + 2 * place) for place, (_, text) in enumerate(turns[::2])]
    except _Unusable as error:
        return BadRow(row.where, *error.args)
    replies = [text for _, text in turns[1::2]]
    return Dialogue(row.where, identity or row.where, emotion or None, has_system, users, replies)


def turn_parts(where: str, text: str) -> dict[str, str] | BadRow:
    """Return the clean parts of an assistant's turn, see `tags.read_parts`; a `BadRow` counted by the kind of the fault."""
    if (found := fault(text)) is not None:
        return BadRow(where, *found)
    parts = {part: clean(body) for part, body in read_parts(text).items()}
    empty = [part for part, body in parts.items() if not body]
    return BadRow(where, EMPTY, f"nothing is left of <{empty[0]}> after cleaning") if empty else parts


def _messages(value) -> list[tuple[str, str]]:
    """Return (role, text) of every message, the texts as they are."""
    if not isinstance(value, list) or not value:
        raise _Unusable("no messages", f"messages is {show(value)}; expected a list of {{role, content}}")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise _Unusable("no message", f"message {number} is {show(message)}; expected {{role, content}}")
        text = message["content"]
        if not isinstance(text, str):
            raise _Unusable("no text", f"content of message {number} is {show(text)}; expected a text")
        if not text.strip():
            raise _Unusable("empty text", f"content of message {number} is {show(text)}")
    return [(message["role"], message["content"]) for message in value]


def _identity(value) -> str:
    if value is None or isinstance(value, (str, int)) and not isinstance(value, bool):
        return clean("" if value is None else str(value))
    raise _Unusable("no id", f"conversation_id is {show(value)}; expected a text or a whole number, or nothing")


def _check_roles(turns: list[tuple[str, str]], has_system: bool) -> None:
    """Raise _Unusable unless user and assistant take turns, and the user begins."""
    if not turns:
        raise _Unusable("no messages", "no turn follows the system message")
    for place, (role, _) in enumerate(turns):
        name = f"message {has_system + place + 1}"
        if role == "system":
            raise _Unusable("system message in the middle", f"{name}; a system message may only come first, and once")
        if role not in ROLES:
            raise _Unusable("unknown role", f"role of {name} is {show(role)}; expected {' or '.join(ROLES)}")
        if role != ROLES[place % 2]:
            reason = "two turns of one role" if place else "the assistant begins"
            raise _Unusable(reason, f"{name} is of the {role}; expected the {ROLES[place % 2]}")


def _user_text(text: str, place: int) -> str:
    cleaned = clean(text)
    if not cleaned:
        raise _Unusable("empty text", f"nothing is left of {show(text)} in message {place + 1} after cleaning")
    return cleaned


NO_TAGS = "no tags"
MISSPELT = "upper case or spaces in a tag"
MISSING = "missing tag"
NOT_CLOSED = "tag not closed"
TWICE = "tag opened twice"
CLOSED_TWICE = "tag closed twice"
NESTED = "nested tags"
ORDER = "tags out of order"
OUTSIDE = "text outside the tags"
EMPTY = "empty part"

_NAMES = "|".join(PARTS)
_MARK = re.compile(rf"<(/?)({_NAMES})>")
# In any case, ASCII letters only ("ſ" is no "s"). Possessive, so that many spaces take no longer than others.
_LOOSE_MARK = re.compile(rf"<\s*+(/?)\s*+((?ai:{_NAMES}))\s*+>")


def fault(text: str) -> tuple[str, str] | None:
    """Return (reason, detail): the first fault of a reply; None for one that is well-formed.

    Tags in upper case or with spaces in them are taken for tags: they are the fault only where there is no other.
    """
    if read_parts(text) is not None:
        return None
    respelt = _respelt(text)
    if read_parts(respelt) is None:
        return _structural_fault(respelt)
    wrong = [mark.group() for mark in _LOOSE_MARK.finditer(text) if _MARK.fullmatch(mark.group()) is None]
    return MISSPELT, ", ".join(f"{show(mark)} for {_respelt(mark)}" for mark in wrong)


def _respelt(text: str) -> str:
    """Return the text with all tags of the format in small letters and without spaces."""
    return _LOOSE_MARK.sub(lambda mark: f"<{mark[1]}{mark[2].lower()}>", text)


def _structural_fault(text: str) -> tuple[str, str]:
    """Return the first fault of a reply that is not well-formed, and whose tags are spelt as they should be."""
    marks = list(_MARK.finditer(text))
    if not marks:
        return NO_TAGS, show(text)
    return _fault_of_counts(marks) or _fault_of_sequence(marks) or _fault_of_contents(text, marks)


def _fault_of_counts(marks: list[re.Match]) -> tuple[str, str] | None:
    """Return what does not stand exactly once."""
    counts = Counter(mark.group() for mark in marks)
    for part in PARTS:
        opening, closing = f"<{part}>", f"</{part}>"
        if not counts[opening]:
            return MISSING, f"no {opening}" + (f" before {closing}" if counts[closing] else "")
        if counts[opening] > 1:
            return TWICE, f"{opening} stands {counts[opening]} times"
        if not counts[closing]:
            return NOT_CLOSED, f"no {closing}"
        if counts[closing] > 1:
            return CLOSED_TWICE, f"{closing} stands {counts[closing]} times"
    return None


def _fault_of_sequence(marks: list[re.Match]) -> tuple[str, str] | None:
    """Return what stands in the wrong place, of marks that are complete."""
    is_open, order = None, []
    for mark in marks:
        closes, part = bool(mark[1]), mark[2]
        if not closes and is_open:
            return NESTED, f"<{part}> inside <{is_open}>"
        if closes and is_open != part:
            return ORDER, f"</{part}> before <{part}>"
        is_open = None if closes else part
        order += [] if closes else [part]
    return None if tuple(order) == PARTS else (ORDER, f"{', '.join(order)}; expected {', '.join(PARTS)}")


def _fault_of_contents(text: str, marks: list[re.Match]) -> tuple[str, str]:
    """Return what stands outside the tags, or where nothing stands inside, of marks that are complete and in order."""
    ends = [0, *(place for mark in marks for place in mark.span()), len(text)]
    pieces = [text[start:end].strip() for start, end in zip(ends[::2], ends[1::2], strict=True)]
    outside = [piece for piece in pieces[::2] if piece]
    if outside:
        return OUTSIDE, show(outside[0])
    empty = [part for part, body in zip(PARTS, pieces[1::2], strict=True) if not body]
    return EMPTY, f"nothing in <{empty[0]}>"

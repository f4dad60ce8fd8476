"""ReDial: a seeker and a recommender talk about films; the policy learns the recommender's part.

After Li et al., "Towards Deep Conversational Recommendations" (NeurIPS 2018). Consecutive messages of one side form one
turn, one message per line. Every recommender turn that answers the seeker is an example: the prompt is the dialogue so
far, and the reference is the turn. Sources are the embedded corpus ("sample"), a folder with the original files or with
the layout by roles, or a Hub id with the columns of either. If a source has no `valid` part, a
tenth of the dialogues of `train` becomes one (see `tables.py`).

Two layouts give the same dialogue. The original layout names workers: the initiator asks for a film (the seeker), the
respondent answers (the recommender), and each has filled in a form about the films. The Hub has the same columns, with
lists instead of mappings. The other layout names roles.

The table of emotions has one row per message: `conversation_id`, `turn` (the index of the message in its dialogue, from
0, counting empty messages) and `emotion` (any words). The same table may serve all splits.

A film stands in a text as its id, `@111776`, until the text has its final length, so truncation never splits a title or
a `<movie>`; `fill_slots` then replaces the id. Lengths are counted in words and punctuation marks, because a corpus has
no tokenizer; a model usually needs more tokens.
"""

import re
from collections import Counter
from dataclasses import replace
from typing import ClassVar

from empathy_trl.data.base import Corpus, Messages, Report, handle_bad_rows
from empathy_trl.data.dialogues import reply_alone
from empathy_trl.data.sources import Published
from empathy_trl.data.tables import (
    SUFFIXES,
    WEIGHT,
    BadRow,
    Row,
    Table,
    check_columns,
    read_table,
    split_table,
    whole_number,
)
from empathy_trl.errors import DataError, show
from empathy_trl.io import user_path
from empathy_trl.text import clean, newest_turns

SYSTEM = (
    "You talk with somebody who looks for a film. Respond to how they feel and what they like, and recommend a film when it is "
    "time to. Write only your next message"
)
# How films are to be written, by `data.slots`.
SLOTS = {"placeholder": ", with <movie> in place of every film's title.", "title": ", and films as in Title (1999)."}
# What stands for a seeker who has not spoken yet, or whose words were cut: chat templates want the user to begin.
UNSAID = "…"

_CHAT_ROLES = {"seeker": "user", "recommender": "assistant"}
ROLES = ("seeker", "recommender")
LIKES = (0, 1, 2)  # did not like it, liked it, did not say

_ORIGINAL = (
    *("conversationId", "messages", "movieMentions", "initiatorWorkerId", "respondentWorkerId"),
    *("initiatorQuestions", "respondentQuestions"),
)
_BY_ROLE = ("conversation_id", "messages", "movies", "liked")


class Redial(Corpus):
    """Answers of recommenders. Rows: the columns below, and `turns` (role, text) in place of `prompt`.

    | column | what it holds |
    |---|---|
    | `prompt` | system message, then the context: the seeker is the user, the recommender the assistant |
    | `text` | the seeker's last turn |
    | `reference` | the recommender's answer |
    | `completion` | for task "sft": the answer as a message |
    | `conversation` | id of the dialogue |
    | `recommends` | whether the reference names a film |
    | `movies` | titles of the films in the reference |
    | `liked` | titles of the films in the whole dialogue that the seeker liked, by the form filled in afterwards |
    | `context_movies` | titles of the films named before, by either side, also in turns that were cut |
    | `emotion` | of the seeker's last turn, from `data.emotions`, or None |
    """

    tasks = ("sft", "grpo", "ppo")
    settings = ("context_tokens", "emotions", "reply_tokens", "slots")
    texts = ()
    nested = True
    types: ClassVar[dict] = {
        "recommends": "bool",
        "movies": ["string"],
        "liked": ["string"],
        "context_movies": ["string"],
    }
    sample = "sample/redial"
    expected = "a folder with train, valid and test files (train_data.jsonl or train.jsonl …), or a Hub id"
    evaluation = "replies"
    citations = ("zhang2024",)
    published = Published(
        "community-datasets/re_dial",
        "cc-by-4.0",
        "CC BY 4.0",
        "conversations of crowd workers who recommend films to each other (ReDial, Li et al. 2018)",
        ("li2018",),
    )
    local_hint = "ReDial, CC BY 4.0 applies"
    local_citations = ("li2018",)
    writes = "talks with somebody who looks for a film, responds to how they feel, and recommends one"
    follows = "ECR (empathetic conversational recommendation)"
    says = "Hi! I had an awful week. Which film would cheer me up?"

    def read_split(self, config, split: str) -> tuple[list[dict], Report]:
        """Return the answers of one split, and a `Report` that counts dialogues, and in its notes the answers.

        `config.portion` is one of the dialogues. A dialogue that is bad (an unknown film id, for one) is bad as a whole,
        because what follows rests on it.

        Raises what `Corpus.read_split` raises, and `DataError` when no recommender answers in any dialogue.
        """
        dialogues, report = super().read_split(config, split)
        emotions, notes = join_emotions(config, dialogues, report.source)
        rows, counts, shortened = [], Counter(), 0
        for dialogue in dialogues:
            answers, cut = _answers(dialogue, emotions.get(dialogue["conversation"], {}), config, counts)
            rows += [answer | {WEIGHT: dialogue[WEIGHT]} for answer in answers] if WEIGHT in dialogue else answers
            shortened += cut
        if not rows:
            raise DataError(f"{report.source}: no recommender answers a seeker in any of {len(dialogues)} dialogues")
        notes = report.notes | {"answers": len(rows)} | {name: count for name, count in counts.items() if count} | notes
        return rows, replace(report, shortened=shortened, notes=notes)

    def read_table(self, config, split: str) -> Table:
        """Return the dialogues of one split; without a part for `valid`, a tenth of those of `train` becomes one."""
        source = self.source(config)
        given = split == "test" or bool(source.names("valid"))
        table = source.split(split if given else "train")
        check_layout(table)
        if given:
            return table
        groups = [conversation_of(row) or number for number, row in enumerate(table.rows)]
        return split_table(table, groups, "conversation", split, held_out=("valid",))[0]

    def parse(self, row: Row, config) -> dict | BadRow:
        """Return a dialogue, see `read_dialogue`."""
        return read_dialogue(row)

    def columns(self, rows: list[dict], config, task: str) -> dict[str, list]:
        """Return the columns of the class's table."""
        prompts = [make_prompt(row["turns"], config.slots, row["emotion"]) for row in rows]
        columns = {"prompt": prompts} | {name: [row[name] for row in rows] for name in rows[0] if name != "turns"}
        if task == "sft":
            columns["completion"] = [[{"role": "assistant", "content": row["reference"]}] for row in rows]
        return columns

    def chat_messages(self, data: dict, history: Messages) -> Messages:
        """Return the instruction and the history; the user is the seeker."""
        roles = {"user": "seeker", "assistant": "recommender"}
        turns = [(roles[message["role"]], message["content"]) for message in history]
        return make_prompt(turns, data.get("slots", "placeholder"))

    def chat_reply(self, data: dict, content: str) -> str:
        """Return the reply alone, cleaned as a reference is."""
        return reply_alone(content)


def make_prompt(turns: list[tuple[str, str]], slots: str, emotion: str | None = None) -> Messages:
    """Return the conversational prompt of a context: the instruction, and the turns in the roles of a chat.

    Args:
        turns: (role, text), the roles in turn, the last one the seeker's.
        slots: a key of `SLOTS`.
        emotion: of the last turn; it ends the instruction, as in "They feel sad."
    """
    system = SYSTEM + SLOTS[slots] + (f" They feel {emotion}." if emotion else "")
    opening = [{"role": "user", "content": UNSAID}] if turns[0][0] == "recommender" else []
    messages = [{"role": _CHAT_ROLES[role], "content": text} for role, text in turns]
    return [{"role": "system", "content": system}, *opening, *messages]


def _answers(dialogue: dict, emotions: dict[int, str], config, counts: Counter) -> tuple[list[dict], bool]:
    """Return the rows of one dialogue, and whether the context of any was cut; what else there is to know is counted."""
    films, turns = dialogue["films"], _turns(dialogue["messages"], emotions)
    titles = films if config.slots == "title" else None
    liked = _titles(films, [film for film, like in dialogue["likes"].items() if like == 1])
    rows, shortened = [], False
    for number in range(1, len(turns)):
        role, reply, _ = turns[number]
        if role != "recommender":
            continue
        before = [text for _, text, _ in turns[:number]]
        context, reference = (
            keep_turns(before, config.context_tokens, titles),
            keep_start(reply, config.reply_tokens, titles),
        )
        roles = [role for role, _, _ in turns[number - len(context) : number]]
        shortened |= context != before
        counts["shortened answers"] += reference != reply
        texts = [fill_slots(text, titles) for text in context]
        rows.append({
            "turns": list(zip(roles, texts, strict=True)),
            "text": texts[-1],
            "reference": fill_slots(reference, titles),
            "conversation": dialogue["conversation"],
            "recommends": bool(film_ids(reference)),
            "movies": _titles(films, film_ids(reference)),
            "liked": liked,
            "context_movies": _titles(films, film_ids(" ".join(before))),
            "emotion": turns[number - 1][2],
        })  # fmt: skip
    counts["openings by the recommender"] += turns[0][0] == "recommender"
    counts["dialogues without an answer"] += not rows
    counts["dialogues without likes"] += not dialogue["likes"]
    counts["messages without text"] += sum(not text for _, text in dialogue["messages"])
    return rows, shortened


def _turns(messages: list[tuple[str, str]], emotions: dict[int, str]) -> list[tuple[str, str, str | None]]:
    """Return (role, text, emotion) of every turn: messages of one side in a row, and the last emotion that one has."""
    turns = []
    for number, (role, text) in enumerate(messages):
        if not text:
            continue
        emotion = emotions.get(number)
        if turns and turns[-1][0] == role:
            _, before, felt = turns.pop()
            text, emotion = f"{before}\n{text}", emotion or felt
        turns.append((role, text, emotion))
    return turns


def _titles(films: dict[str, str], ids: list[str]) -> list[str]:
    """Return the titles of films, each once: two ids may have one title."""
    return list(dict.fromkeys(films[film] for film in ids))


class _Unusable(ValueError):
    """What is wrong with a dialogue: reason and detail of its `BadRow`."""


def check_layout(table: Table) -> None:
    """Raise `DataError` for a table that has the columns of neither layout."""
    check_columns(table.source, table.columns, _ORIGINAL if _is_original(table.columns) else _BY_ROLE)


def read_dialogue(row: Row) -> dict | BadRow:
    """Return a row as a dialogue; the layout follows from its columns.

    A dialogue is a dict with `where` (of the row), `conversation` (its id), `messages` (role and clean text of each, "" for
    one without text), `films` (id -> title, single spaces) and `likes` (id -> 0, 1 or 2 of `LIKES`).
    """
    read = _read_original if _is_original(row.cells) else _read_by_role
    try:
        dialogue = read(row.cells)
        _check(dialogue)
    except _Unusable as error:
        return BadRow(row.where, *error.args)
    return {"where": row.where} | dialogue


def _is_original(columns) -> bool:
    return "movieMentions" in columns or "conversationId" in columns


def conversation_of(row: Row | BadRow) -> str | None:
    """Return the id of a row's conversation in either layout; None for a row that has none."""
    cells = row.cells if isinstance(row, Row) else {}
    found = cells.get("conversation_id", cells.get("conversationId"))
    return clean(str(found)) or None if _is_id(found) else None


def _read_original(cells: dict) -> dict:
    workers = cells["initiatorWorkerId"], cells["respondentWorkerId"]
    for column, worker in zip(("initiatorWorkerId", "respondentWorkerId"), workers, strict=True):
        if not _is_id(worker):
            raise _Unusable("unknown sender", f"{column} is {show(worker)}; expected the id of a worker")
    if workers[0] == workers[1]:
        raise _Unusable("unknown sender", f"initiator and respondent are both worker {workers[0]!r}")
    likes = _by_id(cells, "respondentQuestions", "liked") | _by_id(cells, "initiatorQuestions", "liked")
    return _dialogue(cells, "conversationId", "movieMentions", likes, "senderWorkerId", workers)


def _read_by_role(cells: dict) -> dict:
    return _dialogue(cells, "conversation_id", "movies", _by_id(cells, "liked", "liked"), "role", ROLES)


def _dialogue(cells: dict, identity: str, films: str, likes: dict, sender: str, senders: tuple) -> dict:
    """Return a dialogue; `senders` are the values of `sender` that stand for the two roles."""
    messages = cells["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _Unusable("no messages", f"messages is {show(str(messages))}; expected a list of mappings")
    if not _is_id(cells[identity]):
        raise _Unusable("no conversation", f"{identity} is {show(cells[identity])}; expected a number or a text")
    role_of = dict(zip(senders, ROLES, strict=True))
    for number, message in enumerate(messages):
        if message.get(sender) not in senders:
            expected = " or ".join(repr(each) for each in senders)
            detail = f"{sender} of message {number} is {message.get(sender)!r}; expected {expected}"
            raise _Unusable("unknown sender", detail)
    titles = {film: _text(title, f"the title of @{film}") for film, title in _by_id(cells, films, "movieName").items()}
    return {
        "conversation": clean(str(cells[identity])),
        "messages": [
            (role_of[message[sender]], _text(message.get("text"), f"text of message {number}"))
            for number, message in enumerate(messages)
        ],
        "films": {film: title for film, title in titles.items() if title},
        "likes": {film: like for film, like in likes.items() if like is not None},
    }


def _is_id(value) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _text(value, name: str) -> str:
    """Return a clean text, "" for null."""
    if value is not None and not isinstance(value, str):
        raise _Unusable("no text", f"{name} is {show(value)}; expected a text")
    return clean(value or "")


def _by_id(cells: dict, column: str, key: str) -> dict:
    """Return `{film id: value}` of a mapping or of the Hub's list of `{"movieId": id, key: value}`.

    A value that is a mapping itself stands for its `key`. An empty list is an empty mapping, as in the original files.
    """
    value = cells[column] or []
    entries = (
        [(entry.get("movieId"), entry) for entry in value if isinstance(entry, dict)]
        if isinstance(value, list)
        else None
    )
    if isinstance(value, dict):
        entries = list(value.items())
    if entries is None or len(entries) < len(value):
        raise _Unusable("no mapping", f"{column} is {show(str(value))}; expected film ids and what belongs to each")
    return {str(film): entry.get(key) if isinstance(entry, dict) else entry for film, entry in entries}


def _check(dialogue: dict) -> None:
    if not dialogue["conversation"]:
        raise _Unusable("no conversation", "the id of the conversation is empty")
    if not any(text for _, text in dialogue["messages"]):
        raise _Unusable("no messages", f"conversation {dialogue['conversation']} has no text")
    texts = " ".join(text for _, text in dialogue["messages"])
    liked = [film for film, like in dialogue["likes"].items() if like == 1]
    unknown = [film for film in dict.fromkeys(film_ids(texts) + liked) if film not in dialogue["films"]]
    if unknown:
        named = ", ".join(f"@{film}" for film in unknown)
        detail = (
            f"{named} in conversation {dialogue['conversation']} has no title among its {len(dialogue['films'])} films"
        )
        raise _Unusable("unknown film id", detail)
    for film, like in dialogue["likes"].items():
        if isinstance(like, bool) or like not in LIKES:
            raise _Unusable("unknown like", f"{like!r} for @{film}; expected {', '.join(map(str, LIKES))}")


_EMOTION_COLUMNS = ("conversation_id", "turn", "emotion")


def join_emotions(config, dialogues: list[dict], source: str) -> tuple[dict[str, dict[int, str]], dict[str, int]]:
    """Return `(emotions, notes)`: conversation id -> number of a seeker's message -> emotion, and what else was found.

    Args:
        config: a recipe's `data`; read are `emotions` (the table's path, or None) and `on_bad_rows`.
        dialogues: as `read_dialogue` gives them.
        source: where they are from, for messages.

    The notes count rows about other dialogues, rows about the recommender, and bad rows that were dropped.

    Raises `DataError` when the table cannot be used, when two dialogues have the same id, when a row is bad (no emotion, no
    such message, a second row for one message) and `on_bad_rows` is "error", or when no row is about any of the dialogues.
    """
    if config.emotions is None:
        return {}, {}
    path = user_path(config.emotions)
    if not path.is_file():
        raise DataError(f"data.emotions: no file {config.emotions!r}; expected a table ({', '.join(SUFFIXES)})")
    table = read_table(path, _EMOTION_COLUMNS)
    roles = {dialogue["conversation"]: [role for role, _ in dialogue["messages"]] for dialogue in dialogues}
    first = {}
    for dialogue in dialogues:
        conversation, where = dialogue["conversation"], dialogue["where"]
        if (other := first.setdefault(conversation, where)) != where:
            raise DataError(
                f"{source}, {where}: conversation {conversation} is also in {other}, so data.emotions cannot tell which of "
                "them is meant; expected a different id for each dialogue"
            )
    seen, emotions, bad = {}, {}, []
    notes = {"emotions of other dialogues": 0, "emotions of the recommender": 0}
    for row in table.rows:
        parsed = row if isinstance(row, BadRow) else _parse(row, roles, seen)
        if isinstance(parsed, BadRow):
            bad.append(parsed)
        elif parsed is None:
            notes["emotions of other dialogues"] += 1
        else:
            conversation, number, emotion = parsed
            if roles[conversation][number] == "seeker":
                emotions.setdefault(conversation, {})[number] = emotion
            else:
                notes["emotions of the recommender"] += 1
    notes |= handle_bad_rows(table.source, bad, len(table.rows), config.on_bad_rows)
    if not emotions:
        raise DataError(f"data.emotions: no row of {path} is about a seeker's message in {source}")
    return emotions, {name: count for name, count in notes.items() if count}


def _parse(row: Row, roles: dict[str, list[str]], seen: dict) -> tuple[str, int, str] | BadRow | None:
    """Return conversation, number and emotion; None for a conversation that is not in `roles`."""
    conversation, turn = row.cells["conversation_id"].strip(), whole_number(row.cells["turn"])
    emotion = clean(row.cells["emotion"])
    if not emotion:
        return BadRow(row.where, "no emotion", f"emotion is {show(row.cells['emotion'])}")
    if turn is None:
        detail = f"{show(row.cells['turn'].strip())}; expected the number of a message, from 0"
        return BadRow(row.where, "turn is no number", detail)
    key = conversation, turn
    if (first := seen.setdefault(key, row.where)) != row.where:
        return BadRow(row.where, "second emotion", f"conversation {conversation}, turn {turn} was rated in {first}")
    if conversation not in roles:
        return None
    if turn >= len(roles[conversation]):
        detail = f"conversation {conversation} has no turn {turn}; its messages are 0 to {len(roles[conversation]) - 1}"
        return BadRow(row.where, "no such turn", detail)
    return conversation, turn, emotion


PLACEHOLDER = "<movie>"

_FILM = re.compile(r"@(\d+)")
# As in `text.truncate_start`, a run of letters counts as one word per 20 characters begun.
_PIECE = re.compile(r"@\d+|\w{1,20}|[^\w\s]")


def film_ids(text: str) -> list[str]:
    """Return the ids of the films in a text, each once, in order."""
    return list(dict.fromkeys(_FILM.findall(text)))


def fill_slots(text: str, titles: dict[str, str] | None) -> str:
    """Return `text` with every film's title in place of its id, or `<movie>` where `titles` is None."""
    return _FILM.sub(lambda film: PLACEHOLDER if titles is None else titles[film[1]], text)


def length(text: str, titles: dict[str, str] | None) -> int:
    """Return the number of words and punctuation marks; a film counts as many as its title has, or 1 for `<movie>`."""
    return sum(cost for _, _, cost in _pieces(text, titles))


def keep_start(text: str, limit: int, titles: dict[str, str] | None) -> str:
    """Return the beginning of `text` up to a length of `limit`, but at least its first word or film."""
    end = 0
    for _, stop, cost in _pieces(text, titles):
        limit -= cost
        if limit < 0 and end:
            return text[:end]
        end = stop
    return text


def keep_end(text: str, limit: int, titles: dict[str, str] | None) -> str:
    """Return the end of `text` up to a length of `limit`, but at least its last word or film."""
    start = len(text)
    for begin, _, cost in reversed(_pieces(text, titles)):
        limit -= cost
        if limit < 0 and start < len(text):
            return text[start:]
        start = begin
    return text


def keep_turns(turns: list[str], limit: int, titles: dict[str, str] | None) -> list[str]:
    """Return the newest of `turns` up to a length of `limit` together, see `text.newest_turns`."""
    return newest_turns(
        turns, limit, lambda turn: length(turn, titles), lambda turn, left: keep_end(turn, left, titles)
    )


def _pieces(text: str, titles: dict[str, str] | None) -> list[tuple[int, int, int]]:
    """Return begin, end and length of every word, mark and film."""
    return [(piece.start(), piece.end(), _cost(piece[0], titles)) for piece in _PIECE.finditer(text)]


def _cost(piece: str, titles: dict[str, str] | None) -> int:
    if titles is None or not _FILM.fullmatch(piece):
        return 1
    return len(_PIECE.findall(titles[piece[1:]]))

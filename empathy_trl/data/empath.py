"""EMPATH: dialogues in which every turn of the assistant reacts, responds and reflects (see `tags.py`).

Every turn of the assistant is an example: what was said before is the prompt, the turn is the reference, and what the user
says next tells whether the reflection saw it coming. Sources are the embedded corpus ("sample"), a JSON Lines file, a folder
with one such file or with one for each of train, valid and test, or a Hub id with a column `messages`, such as
leonvanbokhorst/react-respond-reflect-v1. One file, or a Hub id with one split, is split 90/10 by conversation (see `sources.py`).
"""

from collections import Counter
from dataclasses import replace
from random import Random

from empathy_trl.data import on_hub
from empathy_trl.data.empath_turns import Dialogue, read_dialogue, turn_parts
from empathy_trl.data.readers import JSON_LINES, read_objects
from empathy_trl.data.redial_files import conversation_of
from empathy_trl.data.rows import BadRow, Report, Row, Table, check_columns
from empathy_trl.data.sources import (
    as_table,
    check_split,
    check_task,
    hub_source,
    hub_split,
    load_hub,
    local_path,
    split_file,
    split_table,
    usable_rows,
)
from empathy_trl.errors import DataError
from empathy_trl.tags import RESPOND, without_reflection, write_parts
from empathy_trl.text import count_words, newest_turns, truncate_start

TASKS = ("sft", "grpo", "ppo")
EVALUATION = "staged"  # how completions are evaluated

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

_EXPECTED = "a file of JSON Lines, a folder with one or with train, valid and test files, or a Hub id"


def make_prompt(history: list[tuple[str, str]], text: str, instruction: str | None = None) -> list[dict[str, str]]:
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


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, one row per turn of an assistant, in the order of the source.

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

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    check_task("empath", task, TASKS)
    rows, _ = read_split(config, split)
    from datasets import Dataset, Features, List, Value

    # said, because a source may have no emotion, or a split no next turn at all
    text, message = Value("string"), List({"role": Value("string"), "content": Value("string")})
    columns = {"prompt": message, "text": text, "reference": text, "turn": text, "next_user": text}
    columns |= {"other_users": List(text), "conversation": text, "emotion": text}
    content = {name: [row[name] for row in rows] for name in columns if name != "prompt"}
    content["prompt"] = [make_prompt(row["history"], row["text"], config.instruction) for row in rows]
    if task == "sft":
        columns["completion"] = message
        content["completion"] = [[{"role": "assistant", "content": row["turn"]}] for row in rows]
    return Dataset.from_dict({name: content[name] for name in columns}, features=Features(columns))


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: dicts with the columns of `build`, and `history` (see `make_prompt`) instead of `prompt`.

    Read of `config` are `path`, `revision`, `on_bad_rows`, `portion` (of the turns), `max_words` and `reflections`. Together
    history and user's turn have `max_words` words, see `shorten`. The report counts turns. A dialogue that is none (see
    `empath_dialogues.py`) is one bad row; so is a malformed turn, and what comes after it in its dialogue is not used
    either, because it would stand in every later prompt.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is left;
    `UserError` for an unknown split or a Hub id that cannot be loaded.
    """
    check_split(split)
    table = _read_source(config, split)
    check_columns(table.source, table.columns, ["messages"])
    read = [row if isinstance(row, BadRow) else read_dialogue(row) for row in table.rows]
    dialogues = [each for each in read if isinstance(each, Dialogue)]
    others = _OtherUsers(dialogues)
    turns, notes = [], Counter(dialogues=len(dialogues))
    for each in read:
        turns += [each] if isinstance(each, BadRow) else _turns(each, config, others, notes)
    if not turns:
        raise DataError(f"{table.source}: in none of {len(dialogues)} dialogues does the assistant answer")
    table = Table(table.source, table.columns, turns)
    rows, report = usable_rows(config, split, table, lambda row: row.cells, texts=())
    shortened = sum(row.pop("shortened") for row in rows)
    return rows, replace(report, shortened=shortened, notes={name: count for name, count in notes.items() if count})


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


def _read_source(config, split: str) -> Table:
    """Return the dialogues of one split, from whatever kind of source `config.path` names."""
    if on_hub(config.path):
        splits = load_hub(config.path, config.revision)
        if len(splits) > 1:
            return as_table(*hub_split(config.path, config.revision, split), as_cell=_as_it_is)
        ((name, dataset),) = splits.items()
        return _part(as_table(hub_source(config.path, config.revision, name), dataset, as_cell=_as_it_is), split)
    path = local_path(config.path, "sample/empath", _EXPECTED)
    if path.is_file():
        return _part(read_objects(path), split)
    files = [entry for entry in path.iterdir() if entry.is_file() and entry.name.lower().endswith(JSON_LINES)]
    return (
        _part(read_objects(files[0]), split) if len(files) == 1 else read_objects(split_file(path, split, JSON_LINES))
    )


def _as_it_is(value):
    return value


def _part(table: Table, split: str) -> Table:
    """Return the rows of one part of a table without splits; a row without an id is a conversation of its own."""
    groups = [conversation_of(row) or number for number, row in enumerate(table.rows)]
    return split_table(table, groups, "conversation", split)[0]

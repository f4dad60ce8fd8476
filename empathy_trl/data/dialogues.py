"""Dialogues, and rated replies to them.

`Dialogues`: the prompt is the dialogue so far, and the reference is the reply. Sources are the embedded corpus ("sample"), a
folder with train, val and test sub-folders of parallel lists (the layout of RLHF-GODEL: `contexts.json`, `targets.json`,
`instructions.json`, `knowledge.json`), and EmpatheticDialogues (Rashkin et al., 2019), with one conversation per row, or as
published with one utterance per row, in files or on the Hub. In a conversation, each listener turn is one sample, with all
turns before it. Utterances of one speaker in a row are one turn.

`RatedReplies`: replies in their contexts, with one rating or several named ones. These are the rows of reward models, in
two formats: parallel lists (`contexts.json`, `responses.json`, `ratings.json`), and tables with `context`,
`response` and `ratings`. A source with splits keeps them. A source without splits is split 90/10 by context (see
`tables.py`), so that all replies to a context are in one part.
"""

import math
from collections.abc import Iterable

from empathy_trl.data.base import Corpus, Messages
from empathy_trl.data.sources import (
    EMPATHETIC_DIALOGUES,
    SPLITS,
    Source,
    conversations,
    is_empathetic_dialogues,
    open_source,
    split_folder,
)
from empathy_trl.data.tables import (
    NESTED,
    SUFFIXES,
    BadRow,
    Row,
    Table,
    check_columns,
    list_file,
    names_in,
    read_lists,
    split_table,
    with_weight,
)
from empathy_trl.errors import DataError, show, suggestion
from empathy_trl.tags import KNOWLEDGE, reply_text, without_thoughts
from empathy_trl.text import clean

INSTRUCTION = "Answer the other person with empathy, in one or two sentences."
SPEAKERS = ("speaker", "listener")

# What a sample has -> the file of a folder of parallel lists that has it.
_FILES = {
    "context": "contexts.json",
    "target": "targets.json",
    "instruction": "instructions.json",
    "knowledge": "knowledge.json",
}

RATING = "rating"  # the name of a bare number
RANGES = {RATING: (1.0, 5.0)}
SAMPLE_RANGES = dict.fromkeys(("empathy", "informativeness", "recommendation", "engagement", "overall"), (1.0, 5.0))

# What a row has -> the file of a folder of parallel lists that has it.
_RATED_FILES = {"context": "contexts.json", "response": "responses.json", "ratings": "ratings.json"}


class Dialogues(Corpus):
    """Replies in dialogues. Rows: `turns` (a list), `reference`, `instruction`, `knowledge` ("": none), `emotion` or None.

    Together the turns of a row have `config.max_words` words: the oldest turns go first, the instruction and the knowledge
    stay whole. `config.instruction` replaces `INSTRUCTION` where a row has none of its own.
    """

    tasks = ("sft", "grpo", "ppo")
    settings = ("instruction", "max_words")
    texts = ("turns",)
    nested = True
    sample = "sample/dialogues"
    expected = (
        "a folder with train, val and test folders of contexts.json and targets.json, a folder with train, valid and test "
        "files of conversations, or a Hub id such as 'facebook/empathetic_dialogues'"
    )
    evaluation = "replies"
    published = EMPATHETIC_DIALOGUES
    local_hint = "EmpatheticDialogues, CC BY-NC 4.0 applies"
    local_citations = ("rashkin2019",)
    writes = "answers what somebody tells in a conversation, in one or two sentences that are meant to show empathy"
    follows = "RLHF-GODEL"
    says = "I did not get the job that I was hoping for."

    def read_table(self, config, split: str) -> Table:
        """Return the samples of one split, one row per reply."""
        if not self.is_on_hub(config) and has_lists(self.path(config), _FILES.values()):
            files = list(_FILES.values())
            return read_lists(split_folder(self.path(config), split), needed=files[:2], optional=files[2:])
        table = self.source(config).split(split)
        if is_empathetic_dialogues(table):
            return _samples(conversations(table))
        check_columns(table.source, table.columns, ("utterances",))
        return _samples(table)

    def source(self, config) -> Source:
        """Return the tables of `data.path`; EmpatheticDialogues is published as CSV."""
        if self.is_on_hub(config):
            return super().source(config)
        return open_source(self.path(config), SUFFIXES, self.nested)

    def parse(self, row: Row, config) -> dict | BadRow:
        """Return a sample, whose cells are named by what they hold or by the file they are from."""
        column = {key: file if file in row.cells else key for key, file in _FILES.items()}
        sample = {
            "turns": turns_of(row, column["context"]),
            "reference": text_of(row, column["target"], "target"),
            "instruction": optional_text(row, column["instruction"]),
            "knowledge": optional_text(row, column["knowledge"]),
            "emotion": optional_text(row, "emotion"),
        }
        if (bad := next((value for value in sample.values() if isinstance(value, BadRow)), None)) is not None:
            return bad
        instruction = sample["instruction"] or config.instruction or INSTRUCTION
        return sample | {"instruction": instruction, "emotion": sample["emotion"] or None}

    def columns(self, rows: list[dict], config, task: str) -> dict[str, list]:
        """Return `prompt`, `text` (the last turn), `reference` (the reply), `emotion`; for sft also `completion`."""
        columns = {
            "prompt": [make_prompt(row["turns"], row["instruction"], row["knowledge"]) for row in rows],
            "text": [row["turns"][-1] for row in rows],
            "reference": [row["reference"] for row in rows],
            "emotion": [row["emotion"] for row in rows],
        }
        if task == "sft":
            columns["completion"] = [[{"role": "assistant", "content": row["reference"]}] for row in rows]
        return columns

    def chat_messages(self, data: dict, history: Messages) -> Messages:
        """Return the instruction and the history."""
        return make_prompt([message["content"] for message in history], data.get("instruction") or INSTRUCTION)

    def chat_reply(self, data: dict, content: str) -> str:
        """Return the reply alone, cleaned as a reference is."""
        return reply_alone(content)


class RatedReplies(Corpus):
    """Replies with ratings. Rows: `text` (the last turn of the context), `pair` (the reply), `labels` (floats), `context`.

    `context` has all turns, one a line: replies with the same can be compared. A row without one of the ratings of
    `targets`, or where it is no number or out of range, is a bad row; other ratings are ignored.
    """

    tasks = ("regress",)
    settings = ("max_words", "ranges")
    texts = ("text", "pair")
    sample = "sample/rated_replies"
    expected = (
        "a folder with contexts.json, responses.json and ratings.json or with train, val and test folders of them, a folder "
        "with train, valid and test files of JSON Lines or parquet, or one such file"
    )
    comparable = True
    scores = "reads what somebody said and a reply to it, and rates the reply"
    scored = ("I lost my job and nobody seems to care.", "I am so sorry. Which part of it weighs most on you?")

    def targets(self, config) -> dict[str, tuple[float, float]]:
        """Return `{rating: (lowest, highest)}`: `config.ranges`, or else those of the source.

        They are the five of the embedded corpus, and elsewhere one, `rating`, from 1 to 5.
        """
        return dict(config.ranges or (SAMPLE_RANGES if config.path == "sample" else RANGES))

    def read_table(self, config, split: str) -> Table:
        """Return the replies of one split, from whatever kind of source `config.path` names."""
        path, files = self.path(config), list(_RATED_FILES.values())
        if path.is_dir() and list_file(path, files[0]) is not None:
            return _part(read_lists(path, files), split)
        if path.is_dir() and has_lists(path, files):
            folders = [name for names in SPLITS.values() for name in names if path.joinpath(name).is_dir()]
            alone = folders == ["train"]  # the published layout has nothing held out
            table = read_lists(split_folder(path, "train" if alone else split), files)
            return _part(table, split) if alone else table
        source = open_source(path, NESTED, nested=True)
        if not source.tables:
            raise DataError(
                f"data.path: {path} has no rated replies (files found: {names_in(path)}); expected {self.expected}"
            )
        only = source.only()
        table = only or source.split(split)
        check_columns(table.source, table.columns, _RATED_FILES)
        return _part(table, split) if only else table

    def parse(self, row: Row, config) -> dict | BadRow:
        """Return a reply, whose cells are named by what they hold or by the file they are from."""
        column = {key: file if file in row.cells else key for key, file in _RATED_FILES.items()}
        turns, response = turns_of(row, column["context"]), text_of(row, column["response"], "response")
        given = row.cells[column["ratings"]]
        ratings = given if isinstance(given, dict) else {RATING: given}
        labels = [_label(row, ratings, name, *bounds) for name, bounds in self.targets(config).items()]
        if (bad := next((part for part in (turns, response, *labels) if isinstance(part, BadRow)), None)) is not None:
            return bad
        return {"text": turns[-1], "pair": response, "labels": labels, "context": _one_text(turns)}


def has_lists(path, names: Iterable[str]) -> bool:
    """Return whether a folder has sub-folders of splits with one of the lists `names`."""
    folders = [path.joinpath(folder) for folders in SPLITS.values() for folder in folders]
    return any(list_file(folder, name) is not None for folder in folders for name in names)


def make_prompt(turns: list[str], instruction: str, knowledge: str = "") -> Messages:
    """Return the conversational prompt of a dialogue: the instruction, and the turns (see `as_messages`).

    Args:
        turns: at least one, the oldest first.
        instruction: the system message.
        knowledge: what the answer may draw on; it becomes the last line of the system message. Empty: none.
    """
    system = f"{instruction}\n{KNOWLEDGE} {knowledge}" if knowledge else instruction
    return [{"role": "system", "content": system}, *as_messages(turns)]


def _samples(table: Table) -> Table:
    """Return one row per turn of a listener, with all turns before it; a broken conversation is one bad row.

    Raises `DataError` when there is no listener in any of them.
    """
    columns = ["context", "target", "emotion"]
    samples = [with_weight(sample, row) for row in table.rows for sample in _samples_of(row)]
    if not samples:
        raise DataError(f"{table.source}: no listener answers in any of {len(table.rows)} conversations")
    return Table(table.source, columns, samples)


def _samples_of(row: Row | BadRow) -> list[Row | BadRow]:
    if isinstance(row, BadRow):
        return [row]
    said = row.cells["utterances"]
    fits = isinstance(said, list) and all(
        isinstance(each, dict) and {"speaker", "text"} <= each.keys() for each in said
    )
    if not fits:
        detail = f"utterances has {show(said)}; expected a list of {{speaker, text}}"
        return [BadRow(row.where, "no conversation", detail)]
    for number, each in enumerate(said, 1):
        if each["speaker"] not in SPEAKERS:
            detail = f"{show(each['speaker'])} in utterance {number}; expected {' or '.join(SPEAKERS)}"
            return [BadRow(row.where, "unknown speaker", detail)]
    turns, emotion = _joined(said), row.cells.get("emotion")
    texts = [text for _, _, text in turns]
    return [
        Row(f"{row.where}, utterance {number}", {"context": texts[:place], "target": text, "emotion": emotion})
        for place, (number, speaker, text) in enumerate(turns)
        if speaker == "listener"
    ]


def _joined(said: list[dict]) -> list[tuple]:
    """Return number (from 1), speaker and text of every turn; utterances of one speaker in a row are one turn."""
    turns = []
    for number, each in enumerate(said, 1):
        text, thinks = each["text"], each["speaker"] == "listener"
        turn = (number, each["speaker"], without_thoughts(text) if thinks and isinstance(text, str) else text)
        if turns and turns[-1][1] == turn[1] and isinstance(turns[-1][2], str) and isinstance(turn[2], str):
            turns[-1] = (*turns[-1][:2], f"{turns[-1][2]} {turn[2]}")
        else:
            turns.append(turn)
    return turns


def turns_of(row: Row, column: str) -> list[str] | BadRow:
    """Return the clean turns of a context: a list of texts, or one text. The last one is the user's; replies lose their thoughts.

    Turns of which nothing is left are left out. The turns before and after such a turn are one person's, and are joined, so that
    turns still alternate (see `as_messages`).
    """
    value = row.cells[column]
    turns = [value] if isinstance(value, str) else value
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        return BadRow(
            row.where, "context is no text", f"{column} has {show(value)}; expected a list of texts, or a text"
        )
    cleaned, last = [], None
    for place, turn in enumerate(turns):
        turn = clean(turn if (len(turns) - place) % 2 else without_thoughts(turn))
        if turn and cleaned and (place - last) % 2 == 0:
            cleaned[-1] += f" {turn}"
        elif turn:
            cleaned.append(turn)
        last = place if turn else last
    return cleaned or BadRow(row.where, "empty context", f"nothing is left of {show(value)} in {column} after cleaning")


def text_of(row: Row, column: str, name: str) -> str | BadRow:
    """Return a clean reply that has to be there, without thoughts; `name` is what messages call it."""
    value = row.cells[column]
    if not isinstance(value, str):
        return BadRow(row.where, f"{name} is no text", f"{column} has {show(value)}; expected a text")
    detail = f"nothing is left of {show(value)} in {column} after cleaning"
    return clean(without_thoughts(value)) or BadRow(row.where, f"empty {name}", detail)


def optional_text(row: Row, column: str) -> str | BadRow:
    """Return a clean text that may be missing, then ""."""
    value = row.cells.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        return BadRow(row.where, "no text", f"{column} has {show(value)}; expected a text, or an empty one for none")
    return clean(value)


def reply_alone(content: str) -> str:
    """Return what a completion says to the user, cleaned as a reference is; the whole text where that would be empty."""
    reply = reply_text(content) or without_thoughts(content)
    return clean(reply) or reply


def as_messages(turns: list[str]) -> Messages:
    """Return the turns of two people who take turns, the oldest first, as chat messages.

    The last turn is the user's, the one before it the assistant's, and so on back to the first.
    """
    roles = [("user", "assistant")[place % 2] for place in range(len(turns))][::-1]
    return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]


def _label(row: Row, ratings: dict, name: str, low: float, high: float) -> float | BadRow:
    """Return one rating; true and false are no numbers."""
    expected, value = f"expected a number from {low:g} to {high:g}", ratings.get(name)
    if value is None and name in ratings:
        return BadRow(row.where, "missing rating", f"{name} is null; {expected}")
    if value is None:
        there = suggestion(name, ratings, "ratings found")
        return BadRow(row.where, "missing rating", f"no {name}{there}; select the ratings with data.ranges")
    # isfinite is for floats: it cannot read a whole number of 400 digits
    is_number = isinstance(value, int) or isinstance(value, float) and math.isfinite(value)
    if isinstance(value, bool) or not is_number:
        return BadRow(row.where, "rating is no number", f"{name} is {show(value)}; {expected}")
    if not low <= value <= high:
        return BadRow(row.where, "rating out of range", f"{name} is {show(value)}; {expected}")
    return float(value)


def _part(table: Table, split: str) -> Table:
    """Return the rows of one part of a table without splits; a row without a context is a group of its own."""
    column = _RATED_FILES["context"] if _RATED_FILES["context"] in table.columns else "context"
    turns = [turns_of(row, column) if isinstance(row, Row) else row for row in table.rows]
    groups = [number if isinstance(said, BadRow) else _one_text(said) for number, said in enumerate(turns)]
    return split_table(table, groups, "context", split)[0]


def _one_text(turns: list[str]) -> str:
    return "\n".join(turns)  # no turn has a line break any more

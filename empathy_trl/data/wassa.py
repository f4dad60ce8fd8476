"""WASSA empathy conversations: how much emotion, which polarity and how much empathy does a turn show?

The schema is that of the WASSA 2023/2024 shared task, track CONV-turn (Barriere et al., 2023; Giorgi et al., 2024): one
row per turn with a text and a number per dimension. These are the rows of task regress; for sft and grpo the same turns are
prompts, and what the other person answered is the reference (see `wassa_replies.py`). Sources are the
embedded corpus ("sample"), a table, a folder, or a Hub id. A source that comes in three files or splits is used so (`split_by: given`); one table is split 90/10, by row or
by conversation (see `sources.py`).

Conversation turns as prompts: one person's turn, and the other's answer to it as the reference.

The policy is asked to think about the person first, in `<reasoning>`, and to answer in one or two sentences, in `<answer>`.
For a warm start (task sft) the answer is the reference, and the reasoning is a template, filled with what the ratings of
the turn say: it shows the format, and is no human reasoning.
"""

import itertools
import math
from collections.abc import Sequence

from empathy_trl.data import on_hub
from empathy_trl.data.normalize import normalize
from empathy_trl.data.readers import SUFFIXES, read_table
from empathy_trl.data.rows import BadRow, Report, Row, Table, check_columns, quote, text_column
from empathy_trl.data.sources import (
    as_table,
    check_split,
    check_task,
    hub_source,
    hub_split,
    load_hub,
    local_path,
    names_in,
    split_file,
    split_table,
    tables_in,
    usable_rows,
)
from empathy_trl.errors import DataError
from empathy_trl.text import JOINERS

TASKS = ("regress", "sft", "grpo", "ppo")
EVALUATION = "replies"  # how completions are evaluated
# Dimension -> lowest and highest label.
RANGES = {"Emotion": (0.0, 5.0), "EmotionalPolarity": (0.0, 2.0), "Empathy": (0.0, 5.0)}

# Key of a row -> what its column may be called. They may all be missing.
_OPTIONAL = {"conversation": ("conversation_id", "conv_id"), "turn": ("turn_id",), "speaker": ("speaker_id", "speaker")}
_EXPECTED = "a table, a folder with one table or with train, valid and test tables, or a Hub id"


def targets(config) -> dict[str, tuple[float, float]]:
    """Return `{dimension: (lowest, highest label)}` in the order of `labels`: `config.ranges`, or else `RANGES`."""
    return dict(config.ranges or RANGES)


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, in the order of the source.

    Columns for regress, one row per turn: `text` (normalised), `labels` (a float32 for each of `targets`), `conversation`
    (its id or None). For grpo, one row per turn that is answered: `prompt` (system and user message), `text` (the turn),
    `reference` (the answer), `conversation`; for sft also `completion`.

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    check_task("wassa", task, TASKS)
    rows, report = read_split(config, split)
    if task != "regress":
        return replies(rows, report.source, list(targets(config)), with_completion=task == "sft")
    from datasets import Dataset, Features, List, Value

    columns = {"text": Value("string"), "labels": List(Value("float32")), "conversation": Value("string")}
    return Dataset.from_dict({name: [row[name] for row in rows] for name in columns}, features=Features(columns))


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: dicts with `text`, `labels` (floats), and `conversation`, `turn`, `speaker` (text or None).

    Each also has a `number`, its place in the whole source: rows with numbers in sequence are neighbours there, too.

    Read of `config` are `path`, `revision`, `split_by`, `text_column` (None: see `rows.py`), `ranges`, `normalize`
    (the switches of `normalize.normalize`), `on_bad_rows`, `portion` and `max_words`. A label that is missing, no number
    or out of its range makes a bad row.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is left;
    `UserError` for an unknown split or a Hub id that cannot be loaded.
    """
    check_split(split)
    if config.split_by == "given":
        table = _given_split(config, split)
        numbers = range(len(table.rows))
    else:
        table, numbers = _own_split(config, split)
    return usable_rows(config, split, table, _parser(config, table, numbers))


def _parser(config, table: Table, numbers: Sequence[int]):
    """Return the function that checks one row of `table`; the columns are found once, here.

    `numbers` are the places of the table's rows in the whole source.
    """
    number_of = {row.where: number for row, number in zip(table.rows, numbers, strict=True)}
    ranges = targets(config)
    text = text_column(table.source, table.columns, config.text_column)
    check_columns(table.source, table.columns, ranges)
    optional = {key: _optional_column(table, key) for key in _OPTIONAL}

    def parse(row: Row) -> dict | BadRow:
        content = normalize(row.cells[text], **vars(config.normalize))  # the switches are named as the parameters
        if not content.strip(JOINERS).strip():
            detail = f"nothing is left of {quote(row.cells[text])} after normalisation"
            return BadRow(row.where, "empty text", detail)
        labels = [_label(row, dimension, *bounds) for dimension, bounds in ranges.items()]
        bad = next((label for label in labels if isinstance(label, BadRow)), None)
        if bad is not None:
            return bad
        found = {key: row.cells[column].strip() or None if column else None for key, column in optional.items()}
        if config.split_by == "conversation" and found["conversation"] is None:
            return BadRow(row.where, "no conversation", f"{optional['conversation']} is empty")
        return {"text": content, "labels": labels, **found, "number": number_of[row.where]}

    return parse


def _label(row: Row, dimension: str, low: float, high: float) -> float | BadRow:
    cell = row.cells[dimension].strip()
    expected = f"expected a number from {low:g} to {high:g}"
    if not cell:
        return BadRow(row.where, "missing label", f"{dimension} is empty; {expected}")
    try:
        label = float(cell)
    except ValueError:
        label = math.nan
    if not math.isfinite(label):
        return BadRow(row.where, "label is no number", f"{dimension} is {quote(cell)}; {expected}")
    if not low <= label <= high:
        return BadRow(row.where, "label out of range", f"{dimension} is {quote(cell)}; {expected}")
    return label


def _optional_column(table: Table, key: str) -> str | None:
    return next((column for column in _OPTIONAL[key] if column in table.columns), None)


def _given_split(config, split: str) -> Table:
    """Read a split that the source has as a file or Hub split of its own."""
    if on_hub(config.path):
        return as_table(*hub_split(config.path, config.revision, split))
    path = local_path(config.path, "sample/wassa", _EXPECTED)
    advice = "; one table is split 90/10 with data.split_by: row or conversation"
    if path.is_file():
        raise DataError(f"data.split_by: {config.split_by!r}, but {path} has no splits{advice}")
    return read_table(split_file(path, split, SUFFIXES, advice))


def _own_split(config, split: str) -> tuple[Table, list[int]]:
    """Read the only table of the source; return the rows of `split` and their places in that table."""
    table = _only_table(config)
    groups = range(len(table.rows))
    if config.split_by == "conversation":
        column = _optional_column(table, "conversation")
        if column is None:
            raise DataError(
                f"{table.source}: data.split_by is 'conversation', but no column is called "
                f"{' or '.join(_OPTIONAL['conversation'])} (columns found: {', '.join(map(quote, table.columns))}); "
                "split with data.split_by: row, or leave this stage out (--stages.<name> null)"
            )
        # A bad row, or one without a conversation, is a group of its own until it is reported.
        groups = [
            (isinstance(row, Row) and row.cells[column].strip()) or number for number, row in enumerate(table.rows)
        ]
    return split_table(table, groups, config.split_by, split)


def _only_table(config) -> Table:
    if on_hub(config.path):
        splits = load_hub(config.path, config.revision)
        _check_single(config, config.path, list(splits), ", ".join(splits))
        ((name, dataset),) = splits.items()
        return as_table(hub_source(config.path, config.revision, name), dataset)
    path = local_path(config.path, "sample/wassa", _EXPECTED)
    if path.is_file():
        return read_table(path)
    tables = tables_in(path)
    _check_single(config, path, tables, names_in(path))
    return read_table(tables[0])


def _check_single(config, source, tables: list, found: str) -> None:
    if len(tables) != 1:
        raise DataError(
            f"data.split_by: {config.split_by!r} splits a single table, but {source} holds {len(tables)} "
            f"(found: {found}); name one file with data.path, or use its own splits with data.split_by: given"
        )


SYSTEM = (
    "You talk with somebody about what moves them. First reason about the person: their concern, the emotional content of "
    "what they say, its intensity from 0 to 5, and your approach. Then answer them in one or two sentences.\n"
    "Write it as <reasoning>concern, emotional content, intensity, approach</reasoning><answer>your reply</answer> and "
    "nothing else."
)
NEEDED = ("Emotion", "EmotionalPolarity", "Empathy")  # for the template of a warm start
# of EmotionalPolarity 0, 1 and 2
CONCERNS = ("something good", "something on their mind", "something that hurts")
CONTENT = ("positive", "mixed", "negative")
# by the reference's Empathy: what a reply of that kind sets out to do
APPROACHES = ((3.0, "show that I understand"), (1.5, "acknowledge it"), (0.0, "keep it short"))


def make_prompt(turn: str) -> list[dict[str, str]]:
    """Return the conversational prompt of a turn: the instruction, and the turn as the user's message."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": turn}]


def replies(rows: list[dict], source: str, ratings: list[str], with_completion: bool):
    """Return the answered turns as a `datasets.Dataset`: `prompt`, `text`, `reference`, `conversation`, and `completion`.

    Args:
        rows: rated turns in the order of their conversations, see `wassa.read_split`.
        source: how messages name them.
        ratings: the names of the numbers in `labels`.
        with_completion: for a warm start, which needs the ratings Emotion, EmotionalPolarity and Empathy.

    Raises:
        DataError: no turn is answered, or a warm start lacks a rating.
    """
    from datasets import Dataset

    pairs = answered_turns(rows)
    if not pairs:
        raise DataError(
            f"{source}: no turn is answered by the next one; prompts and replies need the turns of conversations in order, with "
            "a column conversation_id"
        )
    columns = {
        "prompt": [make_prompt(turn["text"]) for turn, _ in pairs],
        "text": [turn["text"] for turn, _ in pairs],
        "reference": [reply["text"] for _, reply in pairs],
        "conversation": [turn["conversation"] for turn, _ in pairs],
    }
    if with_completion:
        if missing := [name for name in NEEDED if name not in ratings]:
            raise DataError(
                f"{source}: a warm start needs the ratings {', '.join(NEEDED)}; found {', '.join(ratings)}, not {missing[0]}"
            )
        named = [[dict(zip(ratings, row["labels"], strict=True)) for row in pair] for pair in pairs]
        columns["completion"] = [
            make_completion(reply["text"], *rated) for (_, reply), rated in zip(pairs, named, strict=True)
        ]
    return Dataset.from_dict(columns)


def answered_turns(rows: list[dict]) -> list[tuple[dict, dict]]:
    """Return (turn, answer) for every turn that the other person answers next.

    A turn whose answer was dropped, or lies in another split, has none: what comes next answers another turn.

    Args:
        rows: in order, with `number` (their places in the source), `conversation`, `turn` and `speaker`; where the speaker is
            None, every next turn counts as an answer.
    """
    return [
        (turn, reply)
        for turn, reply in itertools.pairwise(rows)
        if turn["conversation"] is not None
        and turn["conversation"] == reply["conversation"]
        and reply["number"] == turn["number"] + 1
        and not _skips(turn["turn"], reply["turn"])
        and (turn["speaker"] is None or turn["speaker"] != reply["speaker"])
    ]


def _skips(turn: str | None, after: str | None) -> bool:
    """Whether turn ids tell that the source itself lacks a turn between two, or has them in another order.

    Equal ids may be an exchange, of two turns; ids that are no whole numbers tell nothing.
    """
    if not (turn and after and turn.isdecimal() and after.isdecimal()):
        return False
    return int(after) - int(turn) not in (0, 1)


def make_completion(reply: str, turn_ratings: dict, reply_ratings: dict) -> list[dict[str, str]]:
    """Return a warm start's completion: a template for the reasoning, filled from ratings, and the reference as answer.

    Args:
        reply: what the other person answered.
        turn_ratings, reply_ratings: rating -> number, of the turn and of the answer.
    """
    content = f"<reasoning>{_reasoning(turn_ratings, reply_ratings['Empathy'])}</reasoning><answer>{reply}</answer>"
    return [{"role": "assistant", "content": content}]


def _reasoning(ratings: dict, aim: float) -> str:
    polarity = min(2, max(0, round(ratings["EmotionalPolarity"])))
    approach = next(words for lowest, words in APPROACHES if aim >= lowest)
    # no word of the turn is quoted: a model of one layer cannot copy, and what it copies wrong leads the reply astray
    return (
        f"concern: {CONCERNS[polarity]}; content: {CONTENT[polarity]}; intensity: {round(ratings['Emotion'])}; "
        f"approach: {approach}"
    )

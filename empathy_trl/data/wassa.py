"""WASSA empathy conversations: how much emotion, which polarity and how much empathy does a turn show?

The schema is that of the WASSA 2023/2024 shared task, track CONV-turn (Barriere et al., 2023; Giorgi et al., 2024): one
row per turn, with a text and a number per dimension. The task regress uses these rows. Sources are the embedded corpus
("sample"), a table, a folder, or a Hub id. A source with three files or splits keeps them (`split_by: given`); a single
table is split 90/10, by row or by conversation (see `tables.py`).

For sft, grpo and ppo, the prompt is a turn and the reference is the other person's answer. The policy is told to reason
about the person first, in `<reasoning>`, and then to answer in one or two sentences, in `<answer>`. For the warm start
(task sft), the answer is the reference, and the reasoning is a template filled from the ratings of the turn. It teaches
the format and is not human reasoning.
"""

import itertools
import math
from collections.abc import Iterable

from empathy_trl.data.base import Corpus, Messages
from empathy_trl.data.tables import WEIGHT, BadRow, Row, Table, check_columns, split_table, whole_number, with_weight
from empathy_trl.errors import DataError, show, suggestion
from empathy_trl.text import JOINERS, normalize

# Dimension -> lowest and highest label.
RANGES = {"Emotion": (0.0, 5.0), "EmotionalPolarity": (0.0, 2.0), "Empathy": (0.0, 5.0)}
CANDIDATES = ("text", "utterance", "response", "essay", "message", "sentence", "reply", "comment", "post")
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

# Key of a row -> what its column may be called. They may all be missing.
_OPTIONAL = {"conversation": ("conversation_id", "conv_id"), "turn": ("turn_id",), "speaker": ("speaker_id", "speaker")}


class Wassa(Corpus):
    """Rated turns of conversations. Rows: `text`, `labels` (floats), `conversation`, `turn`, `speaker` (text or None).

    Each row also has a `number`, its place in the whole source: rows with numbers in sequence are neighbours there, too. A
    label that is missing, no number or out of its range makes a bad row.
    """

    tasks = ("regress", "sft", "grpo", "ppo")
    settings = ("max_words", "normalize", "ranges", "split_by", "text_column")
    sample = "sample/wassa"
    expected = "a table, a folder with one table or with train, valid and test tables, or a Hub id"
    evaluation = "replies"
    reply_tags = ("reasoning", "answer")
    citations = ("giorgi2024",)
    local_hint = "the turns of the WASSA shared task, they are to be had from its organisers only"
    local_citations = ("giorgi2024",)
    writes = (
        "answers what somebody says, in one or two sentences that are meant to show empathy, after a line of reasoning"
    )
    scores = (
        "reads one turn of a conversation and rates it: how intense the emotion is, whether it is positive or negative, and "
        "how much empathy it shows"
    )
    follows = "a system for the WASSA shared task on empathy"
    says = "Our street was flooded, and my grandmother had to be carried out of her house."
    scored = ("I am so sorry that you lost your home. Is your family safe?",)

    def targets(self, config) -> dict[str, tuple[float, float]]:
        """Return `{dimension: (lowest, highest label)}`: `config.ranges`, or else `RANGES`."""
        return dict(config.ranges or RANGES)

    def normalization(self, config) -> dict[str, bool]:
        """Return the switches of `text.normalize`."""
        return config.normalize.model_dump()

    def read_table(self, config, split: str) -> Table:
        """Return one split with the cells `text`, `ratings` (dimension -> text), `conversation`, `turn`, `speaker`, `number`."""
        if config.split_by == "given":
            advice = "; one table is split 90/10 with data.split_by: row or conversation"
            table = self.source(config).split(split, advice)
            numbers = range(len(table.rows))
        else:
            table, numbers = self._own_split(config, split)
        text, ranges = text_column(table.source, table.columns, config.text_column), self.targets(config)
        check_columns(table.source, table.columns, ranges)
        optional = {key: _optional_column(table, key) for key in _OPTIONAL}

        def renamed(row: Row, number: int) -> Row:
            found = {key: row.cells[column].strip() or None if column else None for key, column in optional.items()}
            ratings = {dimension: row.cells[dimension].strip() for dimension in ranges}
            cells = {"text": row.cells[text], "ratings": ratings, **found, "number": number}
            return with_weight(Row(row.where, cells), row)

        rows = [
            row if isinstance(row, BadRow) else renamed(row, number)
            for row, number in zip(table.rows, numbers, strict=True)
        ]
        return Table(table.source, ["text", "ratings", *optional, "number"], rows)

    def parse(self, row: Row, config) -> dict | BadRow:
        """Return a rated turn, its text normalised."""
        # the switches are named as the parameters
        content = normalize(row.cells["text"], **vars(config.normalize))
        if not content.strip(JOINERS).strip():
            detail = f"nothing is left of {show(row.cells['text'])} after normalisation"
            return BadRow(row.where, "empty text", detail)
        ratings = row.cells["ratings"]
        labels = [_label(row, name, ratings[name], *bounds) for name, bounds in self.targets(config).items()]
        bad = next((label for label in labels if isinstance(label, BadRow)), None)
        if bad is not None:
            return bad
        if config.split_by == "conversation" and row.cells["conversation"] is None:
            return BadRow(row.where, "no conversation", f"{' or '.join(_OPTIONAL['conversation'])} is empty")
        others = {key: row.cells[key] for key in ("conversation", "turn", "speaker", "number")}
        return {"text": content, "labels": labels, **others}

    def columns(self, rows: list[dict], config, task: str) -> dict[str, list]:
        """Return `text`, `labels`, `conversation` for regress; else the columns of `reply_columns`."""
        if task == "regress":
            return {name: [row[name] for row in rows] for name in ("text", "labels", "conversation")}
        return reply_columns(rows, config.path, list(self.targets(config)), with_completion=task == "sft")

    def chat_messages(self, data: dict, history: Messages) -> Messages:
        """Return the prompt of what the user said last."""
        return make_prompt(history[-1]["content"])

    def _own_split(self, config, split: str) -> tuple[Table, list[int]]:
        """Read the only table of the source; return the rows of `split` and their places in that table."""
        source = self.source(config)
        table = source.only()
        if table is None:
            raise DataError(
                f"data.split_by: {config.split_by!r} splits a single table, but {source.place} holds {len(source.tables)} "
                f"(found: {source.found}); name one file with data.path, or use its own splits with data.split_by: given"
            )
        groups = range(len(table.rows))
        if config.split_by == "conversation":
            column = _optional_column(table, "conversation")
            if column is None:
                raise DataError(
                    f"{table.source}: data.split_by is 'conversation', but no column is called "
                    f"{' or '.join(_OPTIONAL['conversation'])}{suggestion('', table.columns, 'columns found')}; "
                    "split with data.split_by: row, or leave this stage out (--stages.<name> null)"
                )
            # A bad row, or one without a conversation, is a group of its own until it is reported.
            groups = [
                (isinstance(row, Row) and row.cells[column].strip()) or number for number, row in enumerate(table.rows)
            ]
        return split_table(table, groups, config.split_by, split)


def text_column(
    source: str, found: list[str], wanted: str | None = None, candidates: Iterable[str] = CANDIDATES
) -> str:
    """Return the wanted column, or else the only one of `found` that is called like a candidate, in any case.

    Raises `DataError` when the wanted one is not there, when no candidate is, or when several are: which of them is
    meant is not guessed.
    """
    if wanted is not None:
        check_columns(source, found, [wanted])
        return wanted
    there = [column for column in found if column.lower() in candidates]
    if len(there) == 1:
        return there[0]
    if there:
        several = ", ".join(show(column) for column in there)
        raise DataError(f"{source}: {len(there)} columns may hold the text: {several}; name one with data.text_column")
    raise DataError(
        f"{source}: no column is called {', '.join(candidates)}; name the one that holds the text with "
        f"data.text_column{suggestion('', found, 'columns found')}"
    )


def _label(row: Row, dimension: str, cell: str, low: float, high: float) -> float | BadRow:
    expected = f"expected a number from {low:g} to {high:g}"
    if not cell:
        return BadRow(row.where, "missing label", f"{dimension} is empty; {expected}")
    try:
        label = float(cell)
    except ValueError:
        label = math.nan
    if not math.isfinite(label):
        return BadRow(row.where, "label is no number", f"{dimension} is {show(cell)}; {expected}")
    if not low <= label <= high:
        return BadRow(row.where, "label out of range", f"{dimension} is {show(cell)}; {expected}")
    return label


def _optional_column(table: Table, key: str) -> str | None:
    return next((column for column in _OPTIONAL[key] if column in table.columns), None)


def make_prompt(turn: str) -> Messages:
    """Return the conversational prompt of a turn: the instruction, and the turn as the user's message."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": turn}]


def reply_columns(rows: list[dict], source: str, ratings: list[str], with_completion: bool) -> dict[str, list]:
    """Return the columns of the answered turns: `prompt`, `text`, `reference`, `conversation`, and `completion`.

    Args:
        rows: rated turns in the order of their conversations, see `Wassa`.
        source: how messages name them.
        ratings: the names of the numbers in `labels`.
        with_completion: for a warm start, which needs the ratings Emotion, EmotionalPolarity and Empathy.

    Raises:
        DataError: no turn is answered, or a warm start lacks a rating.
    """
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
    if WEIGHT in rows[0]:
        columns[WEIGHT] = [turn[WEIGHT] for turn, _ in pairs]
    if with_completion:
        if missing := [name for name in NEEDED if name not in ratings]:
            raise DataError(
                f"{source}: a warm start needs the ratings {', '.join(NEEDED)}; found {', '.join(ratings)}, not {missing[0]}"
            )
        named = [[dict(zip(ratings, row["labels"], strict=True)) for row in pair] for pair in pairs]
        columns["completion"] = [
            make_completion(reply["text"], *rated) for (_, reply), rated in zip(pairs, named, strict=True)
        ]
    return columns


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
    one, other = whole_number(turn), whole_number(after)
    return one is not None and other is not None and other - one not in (0, 1)


def make_completion(reply: str, turn_ratings: dict, reply_ratings: dict) -> Messages:
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

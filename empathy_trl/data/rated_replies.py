"""Rated replies: how good is a reply in its context, by one rating or several named ones?

These are the rows of reward models, in two formats: parallel lists (`contexts.json`, `responses.json`, `ratings.json`,
the layout of RLHF-GODEL), and tables with `context`, `response` and `ratings`. A source with splits keeps them. A
source without splits is split 90/10 by context (see `tables.py`), so that all replies to a context are in one part.
"""

import math

from empathy_trl.data.base import Corpus
from empathy_trl.data.dialogues import has_lists, text_of, turns_of
from empathy_trl.data.sources import SPLITS, open_source, split_folder
from empathy_trl.data.tables import (
    NESTED,
    BadRow,
    Row,
    Table,
    check_columns,
    list_file,
    names_in,
    read_lists,
    split_table,
)
from empathy_trl.errors import DataError, show, suggestion

RATING = "rating"  # the name of a bare number
RANGES = {RATING: (1.0, 5.0)}
SAMPLE_RANGES = dict.fromkeys(("empathy", "informativeness", "recommendation", "engagement", "overall"), (1.0, 5.0))

# What a row has -> the file of a folder of parallel lists that has it.
_FILES = {"context": "contexts.json", "response": "responses.json", "ratings": "ratings.json"}


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
        path, files = self.path(config), list(_FILES.values())
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
        check_columns(table.source, table.columns, _FILES)
        return _part(table, split) if only else table

    def parse(self, row: Row, config) -> dict | BadRow:
        """Return a reply, whose cells are named by what they hold or by the file they are from."""
        column = {key: file if file in row.cells else key for key, file in _FILES.items()}
        turns, response = turns_of(row, column["context"]), text_of(row, column["response"], "response")
        given = row.cells[column["ratings"]]
        ratings = given if isinstance(given, dict) else {RATING: given}
        labels = [_label(row, ratings, name, *bounds) for name, bounds in self.targets(config).items()]
        if (bad := next((part for part in (turns, response, *labels) if isinstance(part, BadRow)), None)) is not None:
            return bad
        return {"text": turns[-1], "pair": response, "labels": labels, "context": _joined(turns)}


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
    column = _FILES["context"] if _FILES["context"] in table.columns else "context"
    turns = [turns_of(row, column) if isinstance(row, Row) else row for row in table.rows]
    groups = [number if isinstance(said, BadRow) else _joined(said) for number, said in enumerate(turns)]
    return split_table(table, groups, "context", split)[0]


def _joined(turns: list[str]) -> str:
    return "\n".join(turns)  # no turn has a line break any more

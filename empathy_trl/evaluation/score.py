"""Scores of an LLM judge for a file of contexts and responses; used by `recipes/score.py`.

Three layouts can be read:

| source | a row is |
|---|---|
| a table: JSON Lines, CSV and so on, see `data.tables` | `{"context", "response"}` or `{"prompt", "completion"}` |
| a folder with `contexts.json` and `responses.json` | the entries with the same index in the two lists |
| `predictions_<split>.jsonl` of an evaluation of replies | `{"text", "reply"}`; other keys are ignored |

A context is a text, a list of texts, or a list of chat messages `{"role", "content"}`. Texts are alternating turns of
two people; the last one is the turn that the response answers. A response is a text, which may be empty, or a list of
chat messages, as TRL has them.

The output has one JSON object per scored row, in the order of the input: `{"index", "context", "response", "ratings"}`.
`index` is the row of the input, from 0; `ratings` maps each aspect to a score on the judge's scale. The file is written
at the end of a run and replaces an existing one. A run that stops early does not change the file. Its answers are in
the judge's cache, so that the next run requests only what is missing.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from empathy_trl.cli import Progress
from empathy_trl.data.dialogues import as_messages
from empathy_trl.data.sources import open_source
from empathy_trl.data.tables import SUFFIXES, BadRow, Table, list_file, read_lists
from empathy_trl.errors import DataError, UserError, show
from empathy_trl.io import hold_file, nearest_path, write_rows
from empathy_trl.rewards.llm_judge import LLMJudge
from empathy_trl.tags import completion_text, content_text

COLUMNS = (("context", "response"), ("prompt", "completion"), ("text", "reply"))
LISTS = ("contexts.json", "responses.json")
# Pairs asked about together, per request under way: so many that waiting for the last one of a batch costs little; so few
# that a server that has died is noticed soon.
PAIRS_PER_SLOT = 12


@dataclass(frozen=True)
class Pair:
    """A context, as it stands in its file, and a response to it."""

    context: Any
    response: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The context as chat messages."""
        turns = [self.context] if isinstance(self.context, str) else self.context
        if isinstance(turns[0], dict):
            return turns
        return as_messages(turns)


@dataclass
class Scored:
    """What a run has done.

    Attributes:
        rows: number of rows of the input, as far as `limit` goes.
        empty: rows with an empty response, which get the lowest scores unasked.
        missing: rows that stay without a score.
        means: aspect -> mean over all scored rows.
    """

    rows: int
    empty: int
    missing: int
    means: dict[str, float]


def score_file(judge: LLMJudge, source: Path, output: Path, limit: int | None = None) -> Scored:
    """Score the rows of a source.

    Args:
        judge: grades; its `max_failure_share` is held against each batch.
        source: file or folder, see the top of the module.
        output: file of the scores; its folder is made when missing.
        limit: only this many rows, the first ones.

    Raises:
        JudgeFailed: too many rows of a batch stay without a valid answer.
        UserError, DataError: input or output cannot be used, or another command is about to write the output.
    """
    pairs = read_pairs(source)[:limit]
    _check_output(output)
    with hold_file(output):
        scores = asyncio.run(_score(judge, pairs))
        rows = [
            {"index": index, "context": pair.context, "response": pair.response, "ratings": ratings}
            for index, (pair, ratings) in enumerate(zip(pairs, scores, strict=True))
            if ratings is not None
        ]
        write_rows(output, rows)
    means = {name: fmean(row["ratings"][name] for row in rows) for name in judge.aspects if rows}
    empty = sum(not pair.response.strip() for pair in pairs)
    return Scored(len(pairs), empty, len(pairs) - len(rows), means)


async def _score(judge: LLMJudge, pairs: list["Pair"]) -> list[dict[str, float] | None]:
    """Return the scores of every pair, None for one without a valid answer."""
    scores = []
    # batches of like size: a share of a small rest would say little
    count = -(-len(pairs) // (PAIRS_PER_SLOT * judge.concurrency))
    with Progress("score", len(pairs), "row") as bar:
        for number in range(count):
            batch = pairs[len(pairs) * number // count : len(pairs) * (number + 1) // count]
            prompts, responses = [pair.messages for pair in batch], [pair.response for pair in batch]
            scores += await judge.grade(prompts, responses, lambda row, ratings: bar.update())
    return scores


def _check_output(path: Path):
    """Raise UserError, before anything is asked, if the output cannot be written."""
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; expected a file, such as {path / 'scores.jsonl'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: cannot write {path}: {error.strerror}") from error


def read_pairs(path: Path) -> list[Pair]:
    """Read the rows of a source, at least one, in its order.

    Raises:
        UserError: there is no such file or folder, or it is none of the three layouts.
        DataError: a file cannot be read, one list is longer than the other, or a row is none; names file and line or row.
    """
    table, names = _parallel_lists(path) if path.is_dir() and list_file(path, LISTS[0]) else _table(path)
    pairs = []
    for row in table.rows:
        if isinstance(row, BadRow):
            raise DataError(f"{path}, {row.where}: {row.reason}: {row.detail}")
        pairs.append(_pair(f"{path}, {row.where}", names, [row.cells[name] for name in names]))
    return pairs


def _table(path: Path) -> tuple[Table, tuple[str, str]]:
    """Return the rows of a table, and what context and response are called in it."""
    if not path.exists():
        raise UserError(f"--input: {path}: no such file or folder{nearest_path(str(path))}")
    table = open_source(path, nested=True).only()
    if table is None:
        raise UserError(
            f"--input: {path}: expected a table ({', '.join(SUFFIXES)}), or a folder with {' and '.join(LISTS)} or with one table"
        )
    names = next((names for names in COLUMNS if set(names) <= set(table.columns)), None)
    if names is None:
        choices = " or ".join(f"{context} and {response}" for context, response in COLUMNS)
        raise DataError(f"{path}: expected rows with {choices}; found {', '.join(table.columns) or 'no keys'}")
    return table, names


def _parallel_lists(folder: Path) -> tuple[Table, tuple[str, str]]:
    """Return the entries of the two lists of a folder side by side, and the names of the lists."""
    for name in LISTS:
        if list_file(folder, name) is None:
            raise UserError(f"--input: {folder} has no {name}; expected {' and '.join(LISTS)}")
    return read_lists(folder, LISTS), LISTS


def _pair(where: str, names: tuple[str, str], values) -> Pair:
    """Return a row; DataError, with its place and the name of the culprit, if it is none."""
    context, response = values
    if isinstance(response, list) and response and _all_messages(response):
        response = completion_text(response, thoughts=True)
    if not isinstance(response, str):
        raise DataError(
            f"{where}: {names[1]} is {_shown(response)}; expected a text, an empty one for no response, or chat messages"
        )
    turns = [context] if isinstance(context, str) else context
    if not isinstance(turns, list) or not (_all_texts(turns) or _all_messages(turns)):
        raise DataError(
            f"{where}: {names[0]} is {_shown(context)}; expected a text, a list of texts, or a list of messages with role "
            "and content"
        )
    if not any((turn if isinstance(turn, str) else content_text(turn["content"])).strip() for turn in turns):
        raise DataError(f"{where}: {names[0]} is empty; a response can only be graded as an answer to something")
    return Pair(context, response)


def _all_texts(turns: list) -> bool:
    return all(isinstance(turn, str) for turn in turns)


def _all_messages(turns: list) -> bool:
    return all(isinstance(turn, dict) and isinstance(turn.get("role"), str) and _is_content(turn.get("content"))
               for turn in turns)  # fmt: skip


def _is_content(content) -> bool:
    """Whether this is the content of a message: a text, or a list of parts."""
    try:
        return content is not None and content_text(content) is not None
    except TypeError:
        return False


def _shown(value) -> str:
    return "missing" if value is None else show(value)

"""The base class of corpora: reads rows, checks them and builds a `datasets.Dataset`.

`Corpus` declares everything that the rest of the package uses of a corpus. `usable_rows` checks the rows of a table: an
unusable row stops the run, or is dropped and counted, depending on the recipe's `data.on_bad_rows`.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from empathy_trl.data.sources import SPLITS, Published, Source, local_path, open_hub, open_source
from empathy_trl.data.tables import NESTED, SUFFIXES, WEIGHT, BadRow, Row, Table, check_columns, weight_of
from empathy_trl.errors import DataError, UserError, suggestion
from empathy_trl.io import on_hub
from empathy_trl.text import truncate_start, truncate_turns

logger = logging.getLogger(__name__)

Messages = list[dict[str, str]]

_SHOWN_ROWS = 5
_PLACES = ("number", "where")  # keys of a parsed row that tell where it is from
_MESSAGES = [{"role": "string", "content": "string"}]
_TEXTS = ("text", "pair", "reference", "context", "label", "emotion", "conversation")
# Column -> its type, because values do not always tell: a split may have no emotion at all. A list is a list of its entry.
_TYPES = {"prompt": _MESSAGES, "completion": _MESSAGES, WEIGHT: "float64"} | dict.fromkeys(_TEXTS, "string")
_LABELS = {"regress": ["float32"], "classify": ["int64"]}


@dataclass(frozen=True)
class Report:
    """What became of a split: `used` of `read` rows remain, `shortened` of these lost their beginning.

    `skipped` counts good rows that belong to another task, and `dropped` bad rows by reason. `notes` has other counts by name:
    rows that repeat an earlier one (they are kept), and counts of a corpus.
    """

    source: str
    read: int
    dropped: dict[str, int]
    used: int
    shortened: int
    skipped: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> str:
        """The report without its source."""
        reasons = f" ({_counts(self.dropped)})" if self.dropped else ""
        dropped = f"{sum(self.dropped.values())} dropped{reasons}"
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        used = f"{self.read} read, {dropped}{skipped}, {self.used} used, {self.shortened} shortened"
        return used + (f"; {_counts(self.notes)}" if self.notes else "")

    def __str__(self) -> str:
        return f"{self.source}: {self.counts}"


class Corpus(ABC):
    """One corpus: where its rows come from, which rows are good, and the columns that a trainer gets.

    A subclass names its `tasks` and implements `parse`; with prompts to complete it also implements `columns`. It is made
    without arguments and keeps no state, so one class serves every recipe. `config` is the `data` section of a recipe.

    Attributes:
        tasks: the tasks that it has rows for: "sft", "grpo", "ppo", "regress", "classify".
        settings: the keys of `data` that it reads, beside `path`, `revision`, `on_bad_rows` and `portion`, which all read.
        needs: columns that a table of it must have.
        nested: whether cells may be lists or mappings, from JSON, parquet or `datasets`; by default, every cell is a text.
        texts: keys of a parsed row that are cut to their last `max_words` words.
        types: column -> type for columns that only this corpus has, as `datasets.Value` names it; `["string"]` is a list.
        sample: the folder below `empathy_trl/data` that `path: sample` means; None where nothing is embedded.
        expected: what else `data.path` may be, for messages.
        evaluation: the kind of evaluation of completions, a key of `evaluation.EVALUATORS`; "" without completions.
        labels: with the evaluation "emotions", the labels that a completion may answer with.
        next_word: with the evaluation "emotions", the beginning of an answer whose next word is a label; "" where there is none.
        comparable: whether rows of "regress" have a column `context`, so that replies to the same one can be compared.
        reply_tags: the tags that a reply must have, in order; empty where any reply will do.
        citations: keys of the BibTeX entries that a model card asks to cite.
        published: the data set on the Hub that it reads, if there is one.
        local_hint: what local files of this layout usually are, and their terms: "if it is …".
        local_citations: keys of the BibTeX entries for local files.
        writes: what a model does that was trained to write: "This language model …".
        scores: what a model does that was trained to score: "This model …".
        follows: the published system that the recipes of this corpus follow.
        says: something that a user may say, as an example in a model card.
        scored: an example of what a model scores: one text, or a text and its reply.
    """

    tasks: tuple[str, ...]
    settings: tuple[str, ...] = ("max_words",)
    needs: tuple[str, ...] = ()
    nested: bool = False
    texts: tuple[str, ...] = ("text",)
    types: ClassVar[dict] = {}
    sample: str | None = None
    expected: str = "a folder with train, valid and test tables, or a Hub id"
    evaluation: str = ""
    labels: tuple[str, ...] = ()
    next_word: str = ""
    comparable: bool = False
    reply_tags: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    published: Published | None = None
    local_hint: str = ""
    local_citations: tuple[str, ...] = ()
    writes: str = ""
    scores: str = ""
    follows: str = ""
    says: str = "I did not sleep last night."
    scored: tuple[str, ...] = ("I did not sleep last night.",)

    @property
    def talks(self) -> bool:
        """Whether a model trained on it writes replies, so that one can chat with it."""
        return bool({"sft", "grpo", "ppo"} & set(self.tasks))

    def build(self, config, split: str, task: str):
        """Return one split as a `datasets.Dataset`, in the order of the source.

        Args:
            config: the `data` section of a recipe.
            split: "train", "valid" or "test".
            task: one of `tasks`.

        Raises:
            DataError: files or rows cannot be used.
            UserError: an unknown split or task, or a Hub id that cannot be loaded.
        """
        if task not in self.tasks:
            raise UserError(f"the {config.name} data has no columns for task {task!r}{suggestion(task, self.tasks)}")
        rows, _ = self.read_split(config, split)
        columns = self.columns(rows, config, task)
        if WEIGHT in rows[0] and WEIGHT not in columns:
            columns |= {WEIGHT: [row[WEIGHT] for row in rows]}
        return to_dataset(columns, _TYPES | {"labels": _LABELS.get(task)} | self.types)

    def read_split(self, config, split: str) -> tuple[list[dict], Report]:
        """Return the good rows of one split as `parse` makes them, in order, and a `Report`.

        Raises:
            DataError: a file cannot be used, a row cannot and `on_bad_rows` is "error", or no row is left.
            UserError: an unknown split, or a Hub id that cannot be loaded.
        """
        check_split(split)
        table = self.read_table(config, split)
        check_columns(table.source, table.columns, self.needs)
        return usable_rows(config, split, table, lambda row: self.parse(row, config), self.texts)

    def read_table(self, config, split: str) -> Table:
        """Return the rows of one split as the source has them."""
        return self.source(config).split(split)

    @abstractmethod
    def parse(self, row: Row, config) -> dict | BadRow | None:
        """Return a row for `columns`; a `BadRow` that says what is wrong with it; None for a row of another task."""

    def columns(self, rows: list[dict], config, task: str) -> dict[str, list]:
        """Return the columns of the data set, each with a value per row; by default the keys of the rows.

        | task | columns |
        |---|---|
        | sft | `prompt`, `completion` (lists of chat messages), and those of grpo |
        | grpo, ppo | `prompt`, `text` (what the user said last), and what rewards and the evaluation read |
        | regress | `text`, `labels` (a float for each of `targets`); `pair` for a second text, `context` where `comparable` |
        | classify | `text`, `labels` (for each of `targets` the position of its label); `pair` for a second text |

        Rows with a weight have a column `row_weight` besides, which `build` adds where it is missing.
        """
        return {name: [row[name] for row in rows] for name in rows[0]}

    def targets(self, config) -> dict[str, tuple]:
        """Return what stands in the column `labels`, in its order.

        For "regress" `{rating: (lowest, highest)}`, for "classify" `{group: (names)}`.

        Raises `UserError` for a corpus without such labels.
        """
        raise UserError(
            f"data.name: the {config.name} data has no labels to predict; its tasks: {', '.join(self.tasks)}"
        )

    def normalization(self, config) -> dict[str, bool] | None:
        """Return the switches of `text.normalize` for its texts; None where they are cleaned in another way."""
        return None

    def chat_messages(self, data: dict, history: Messages) -> Messages:
        """Return the prompt for a chat, as in training.

        Args:
            data: the `data` section of the recipe that trained the model, as a mapping; keys may be missing.
            history: user and assistant in turn, the user last.
        """
        return history

    def chat_reply(self, data: dict, content: str) -> str:
        """Return how an earlier reply of the model stands in the history."""
        return content

    def is_on_hub(self, config) -> bool:
        """Return whether `data.path` is the Hub id of a data set."""
        return on_hub(config.path, needs_owner=True)

    def path(self, config):
        """Return the folder or file that `data.path` names; `sample` is the embedded corpus."""
        return local_path(config.path, self.sample, self.expected)

    def source(self, config) -> Source:
        """Return the tables of `data.path`: a Hub id, a folder, or one file."""
        if self.is_on_hub(config):
            return open_hub(config.path, config.revision, self.nested)
        return open_source(self.path(config), NESTED if self.nested else SUFFIXES, self.nested)


def to_dataset(columns: dict[str, list], types: dict):
    """Return columns as a `datasets.Dataset`; the type of a column that `types` does not have follows from its values."""
    # Imported here, not above: it takes a second, and `--check` and `--help` can do without.
    from datasets import Dataset, Features

    kinds = {name: _feature(types[name]) for name in columns if name in types}
    others = Dataset.from_dict({name: values for name, values in columns.items() if name not in types}).features
    return Dataset.from_dict(columns, features=Features({name: kinds.get(name) or others[name] for name in columns}))


def _feature(kind):
    from datasets import List, Value

    if isinstance(kind, list):
        return List(_feature(kind[0]))
    return {key: Value(value) for key, value in kind.items()} if isinstance(kind, dict) else Value(kind)


def check_split(split: str) -> None:
    """Raise `UserError` unless `split` is "train", "valid" or "test"."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{suggestion(split, SPLITS)}")


def usable_rows(
    config, split: str, table: Table, parse: Callable[[Row], dict | BadRow | None], texts: tuple[str, ...] = ("text",)
) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: the rows that `parse` accepts, in order, cut to the portion and shortened.

    `config.portion` (low, high) keeps the rows from int(low * n) to int(high * n) of the n good rows of the
    training split, so portions that share a bound share no row; other splits stay whole.

    Args:
        config: a recipe's `data`; read are `on_bad_rows`, `portion` and `max_words`.
        parse: turns a row into a dict, a `BadRow`, or None for a good row of another task.
        texts: the keys of a parsed row that are cut to their last `max_words` words; a list of turns has so many words
            together.

    If a row of the training split has a cell `row_weight`, all parsed rows get this key, see `tables.weight_of`.

    Raises `DataError` when bad rows are errors, when no row is left, or when all weights are 0.
    """
    if split == "train" and any(isinstance(row, Row) and WEIGHT in row.cells for row in table.rows):
        parse = partial(_parse_weighted, parse)
    parsed = [row if isinstance(row, BadRow) else parse(row) for row in table.rows]
    bad = [row for row in parsed if isinstance(row, BadRow)]
    good = [row for row in parsed if isinstance(row, dict)]
    dropped = handle_bad_rows(table.source, bad, len(parsed), config.on_bad_rows)
    skipped = len(parsed) - len(bad) - len(good)
    if not good:
        raise DataError(f"{table.source}: no row is left of {len(parsed)}; {skipped} are for another task")
    if split == "train":
        low, high = config.portion
        total, good = len(good), good[int(low * len(good)) : int(high * len(good))]
        if not good:
            raise DataError(f"{table.source}: data.portion [{low}, {high}] of {total} rows leaves no row")
    rows = [row | {text: _shorten(row[text], config.max_words) for text in texts} for row in good]
    shortened = sum(row != whole for row, whole in zip(rows, good, strict=True))
    contents = {repr({key: value for key, value in row.items() if key not in _PLACES}) for row in good}
    notes = {"repeated (kept)": len(good) - len(contents)} if len(contents) < len(good) else {}
    if others := sum(row.get(WEIGHT, 1) != 1 for row in good):
        notes[f"with a {WEIGHT} other than 1"] = others
        if not any(row[WEIGHT] for row in good):
            raise DataError(f"{table.source}: {WEIGHT} is 0 in all {len(good)} rows; expected at least one above 0")
    return rows, Report(table.source, len(parsed), dropped, len(rows), shortened, skipped, notes)


def _parse_weighted(parse: Callable[[Row], dict | BadRow | None], row: Row) -> dict | BadRow | None:
    """Return what `parse` returns; if that is a usable row, with its weight."""
    parsed, weight = parse(row), weight_of(row)
    if not isinstance(parsed, dict):
        return parsed
    return weight if isinstance(weight, BadRow) else parsed | {WEIGHT: weight}


def _shorten(text: str | list[str], max_words: int) -> str | list[str]:
    return truncate_start(text, max_words) if isinstance(text, str) else truncate_turns(text, max_words)


def handle_bad_rows(source: str, bad: list[BadRow], read: int, on_bad_rows: str) -> dict[str, int]:
    """Raise one `DataError` about all bad rows ("error"), or log one warning and return their counts by reason ("drop").

    Args:
        source: the file or Hub id that messages name.
        bad: the bad rows, in the order of the source.
        read: how many rows the source has, good and bad. When none is good this is an error in any case.
        on_bad_rows: "error" or "drop".
    """
    counts = dict(Counter(row.reason for row in bad))
    if not bad:
        return counts
    summary = f"{source}: {len(bad)} of {read} rows cannot be used ({_counts(counts)})"
    if on_bad_rows == "drop" and len(bad) < read:
        logger.warning("%s; dropped", summary)
        return counts
    lines = [f"  {row.where}: {row.reason}: {row.detail}" for row in bad[:_SHOWN_ROWS]]
    if len(bad) > _SHOWN_ROWS:
        lines.append(f"  and {len(bad) - _SHOWN_ROWS} more")
    dropping = on_bad_rows == "drop"
    advice = "no row is left" if dropping else "fix them, or leave them out with data.on_bad_rows: drop"
    raise DataError("\n".join([summary, *lines, advice]))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())

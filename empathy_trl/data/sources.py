"""Sources of rows: a Hub id, a folder saved by `datasets`, a folder of tables, or one table.

`open_source` and `open_hub` find the tables of a source, and `Source.split` reads the table of a split. Splits have the same
names in all formats. `situations` and `conversations` read EmpatheticDialogues, which has one utterance per row.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import pairwise

from empathy_trl.data.tables import (
    SUFFIXES,
    BadRow,
    Row,
    Table,
    as_table,
    check_columns,
    kind_of,
    names_in,
    read_table,
    whole_number,
    with_weight,
)
from empathy_trl.errors import DataError, UserError, show
from empathy_trl.io import nearest_path, network_hint, user_path

# One of the files that the Hub makes of a large table.
_SHARD = re.compile(r"-\d{5}-of-(?P<count>\d{5})(?=\.parquet$)")
# Split -> what its table, its folder or its split on the Hub may be called.
SPLITS = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class Published:
    """A data set on the Hub, as a model card describes it.

    Attributes:
        hub_id: owner/name.
        licence: the Hub's identifier of its licence, or None where its page names none.
        terms: the licence in words.
        source: who wrote the texts.
        citations: keys of BibTeX entries.
    """

    hub_id: str
    licence: str | None
    terms: str
    source: str
    citations: tuple[str, ...] = ()


EMPATHETIC_DIALOGUES = Published(
    "facebook/empathetic_dialogues",
    "cc-by-nc-4.0",
    "CC BY-NC 4.0: no commercial use",
    "conversations of crowd workers about their feelings (Rashkin et al. 2019)",
    ("rashkin2019",),
)

# The branch where the Hub keeps every data set as parquet; the main branch of EmpatheticDialogues is a
# script, which `datasets` no longer runs.
HUB_REVISION = "refs/convert/parquet"


def load_hub(path: str, revision: str | None):
    """Return the `DatasetDict` of a Hub id. Raises `UserError`, which says what to do, when it cannot be loaded."""
    import httpx
    from datasets import load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    revision = revision or HUB_REVISION
    # `datasets` reports a gated, private or unknown data set as a FileNotFoundError, no network as a
    # ConnectionError.
    try:
        return load_dataset(path, revision=revision)
    except (ConnectionError, FileNotFoundError, ImportError, ValueError, HfHubHTTPError, httpx.TransportError) as error:
        raise UserError(
            f"data.path: cannot load {path!r} (revision {revision}) from the Hub, and there is no folder "
            f"of that name: {error}{network_hint(error)}\nIf it is gated or private, log in with `hf auth login`. Without "
            "network, load it once elsewhere and copy the cache (HF_HOME), or set data.path to a local folder."
        ) from error


@dataclass(frozen=True)
class Source:
    """The tables of a Hub id, a folder or a file.

    Attributes:
        place: the source, for messages.
        tables: name of a file or split -> a function that reads it.
        found: the names that exist there, for messages.
        is_table: whether the source is one table, which has no splits.
        suffixes: endings of the files that are tables, for messages.
    """

    place: str
    tables: dict[str, Callable[[], Table]]
    found: str
    is_table: bool = False
    suffixes: tuple[str, ...] = ()

    def names(self, split: str) -> list[str]:
        """Return the names of all tables that are named like a split."""
        return [name for name in self.tables if _stem(name) in SPLITS[split]]

    def split(self, split: str, advice: str = "") -> Table:
        """Return the table of a split. Raises `DataError` unless there is exactly one; `advice` ends the message."""
        if self.is_table:
            raise DataError(
                f"data.path: {self.place} is one table without splits; give the folder that holds the split files{advice}"
            )
        names = self.names(split)
        if len(names) > 1:
            raise DataError(
                f"data.path: {self.place} has {len(names)} tables for the split {split}: {', '.join(names)}; keep one"
            )
        if not names:
            endings = f"{', '.join(self.suffixes)}; " if self.suffixes else ""
            raise DataError(
                f"data.path: {self.place} has no table called {' or '.join(SPLITS[split])} ({endings}found: {self.found}){advice}"
            )
        return self.tables[names[0]]()

    def only(self) -> Table | None:
        """Return the table of a source with exactly one, or None."""
        return next(iter(self.tables.values()))() if len(self.tables) == 1 else None


def _stem(name: str) -> str:
    """Return the name of a table without its ending, and without ReDial's `_data`."""
    kind = kind_of(name)
    stem = name if kind is None else name.lower().removesuffix(".gz").removesuffix(kind)
    return stem.removesuffix("_data")


def local_path(path: str, sample: str | None, expected: str):
    """Return the folder or file that `data.path` names.

    Args:
        path: "sample", or a folder or file.
        sample: the folder below `empathy_trl/data` that "sample" means; None where nothing is embedded.
        expected: for the error about a path that does not exist, what else `data.path` may be.
    """
    is_sample = path == "sample" and sample is not None
    found = files("empathy_trl.data").joinpath(sample) if is_sample else user_path(path)
    if not found.is_dir() and not found.is_file():
        embedded = "'sample' (the embedded corpus), " if sample is not None else ""
        raise DataError(f"data.path: no folder {show(path)} here{nearest_path(path)}; expected {embedded}{expected}")
    return found


def open_source(path, suffixes: tuple[str, ...] = SUFFIXES, nested: bool = False) -> Source:
    """Return the tables of a folder, or of one file.

    A folder written by `save_to_disk` of `datasets` is one table, or has one table per split. In any other folder, the tables
    are the files with one of `suffixes`. A `.json` file counts only if it is named like a split, or if the folder has no other
    table, because it may be a description.

    Args:
        path: a folder or file.
        suffixes: endings of the tables in a folder, see `tables.SUFFIXES`; a single file may have another one.
        nested: see `tables.read_table`.
    """
    if path.is_file():
        return Source(str(path), {path.name: partial(read_table, path, nested=nested)}, path.name, is_table=True)
    if path.joinpath("dataset_dict.json").is_file():
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        tables = {name: partial(_saved, path.joinpath(name), nested) for name in names}
        return Source(str(path), tables, ", ".join(names))
    if path.joinpath("dataset_info.json").is_file() and path.joinpath("state.json").is_file():
        return Source(str(path), {path.name: partial(_saved, path, nested)}, path.name, is_table=True)
    # not hidden files: on disks of other systems, macOS writes `._train.csv` beside `train.csv`
    entries = [each for each in path.iterdir() if each.is_file() and not each.name.startswith(".")]
    tables = {each.name: each for each in sorted(entries, key=lambda each: each.name) if kind_of(each.name, suffixes)}
    named = {
        name for name in tables if kind_of(name) != ".json" or any(_stem(name) in each for each in SPLITS.values())
    }
    shards = {}  # name of a table -> its files: `train-00000-of-00002.parquet` and so on are one table
    for name in named or tables:
        shards.setdefault(_SHARD.sub("", name), []).append(tables[name])
    readers = {name: partial(_read_shards, files, nested) for name, files in sorted(shards.items())}
    return Source(str(path), readers, names_in(path), suffixes=suffixes)


def open_hub(path: str, revision: str | None, nested: bool = False) -> Source:
    """Return the splits of a Hub id. Raises what `load_hub` raises."""
    splits = load_hub(path, revision)
    place = f"{path} (revision {revision or HUB_REVISION})"
    tables = {
        name: partial(as_table, f"{place[:-1]}, split {name})", dataset, nested) for name, dataset in splits.items()
    }
    return Source(place, tables, ", ".join(splits))


def _read_shards(files: list, nested: bool) -> Table:
    """Return the rows of a table from all its files."""
    files = sorted(files, key=lambda file: file.name)
    shard = _SHARD.search(files[0].name)
    if shard is None:
        return read_table(files[0], nested=nested)
    if len(files) != int(shard["count"]):
        names = ", ".join(file.name for file in files)
        raise DataError(f"data.path: {files[0].parent} has {len(files)} of {int(shard['count'])} files: {names}")
    tables = [read_table(file, nested=nested) for file in files]
    rows = [
        replace(row, where=f"{file.name}, {row.where}")
        for file, table in zip(files, tables, strict=True)
        for row in table.rows
    ]
    return Table(str(files[0].parent.joinpath(_SHARD.sub("-*", files[0].name))), tables[0].columns, rows)


def _saved(folder, nested: bool) -> Table:
    """Return a data set that `save_to_disk` has written."""
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(folder), keep_in_memory=True)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: cannot be read as a saved data set: {error}") from error
    return as_table(str(folder), dataset, nested)


def split_folder(folder, split: str):
    """Return the one sub-folder of a split, by one of the names of `SPLITS`."""
    found = [name for name in SPLITS[split] if folder.joinpath(name).is_dir()]
    if len(found) > 1:
        raise DataError(f"data.path: {folder} has several folders for the split {split}: {', '.join(found)}; keep one")
    if not found:
        raise DataError(
            f"data.path: {folder} has no folder {' or '.join(SPLITS[split])} (files found: {names_in(folder)})"
        )
    return folder.joinpath(found[0])


def is_empathetic_dialogues(table: Table) -> bool:
    """Return whether a table is EmpatheticDialogues in its own layout: one utterance per row, as in its CSV and on the Hub."""
    return {"conv_id", "context"} <= set(table.columns)


def situations(table: Table) -> Table:
    """Return one row (`text`, `label`) per conversation of EmpatheticDialogues: its situation and its emotion.

    The table has one row per utterance; `context` (the emotion) and `prompt` (the situation) are the same in all rows of a
    conversation, and its commas are written `_comma_`.
    """
    check_columns(table.source, table.columns, ("conv_id", "context", "prompt"))
    rows, seen = [], set()
    for row in table.rows:
        if isinstance(row, BadRow):
            rows.append(row)
        elif (conversation := row.cells["conv_id"]) not in seen:
            seen.add(conversation)
            text = (row.cells["prompt"] or "").replace("_comma_", ",")
            rows.append(with_weight(Row(row.where, {"text": text, "label": row.cells["context"] or ""}), row))
    return Table(table.source, ["text", "label"], rows)


def conversations(table: Table) -> Table:
    """Return one row (`emotion`, `utterances`) per conversation of EmpatheticDialogues.

    `utterances` is a list of `{"speaker": "speaker" or "listener", "text"}` in order; who speaks first is the speaker. A
    conversation that lacks its first utterance or one in between, or has one twice, is one bad row. See `situations` for the
    table.
    """
    check_columns(table.source, table.columns, ("conv_id", "utterance_idx", "context", "speaker_idx", "utterance"))
    bad, said = [], {}
    for row in table.rows:
        if isinstance(row, BadRow):
            bad.append(row)
        elif whole_number(row.cells["utterance_idx"]) is not None:
            said.setdefault(row.cells["conv_id"], []).append(row)
        else:
            detail = f"utterance_idx is {show(row.cells['utterance_idx'])}; expected a whole number"
            bad.append(BadRow(row.where, "no place in the conversation", detail))
    rows = []
    for turns in said.values():
        turns.sort(key=_place)
        if problem := _what_is_missing(turns):
            bad.append(BadRow(f"conversation from {turns[0].where}", "broken conversation", problem))
            continue
        first = turns[0].cells
        utterances = [
            {
                "speaker": "speaker" if turn.cells["speaker_idx"] == first["speaker_idx"] else "listener",
                "text": (turn.cells["utterance"] or "").replace("_comma_", ","),
            }
            for turn in turns
        ]
        where = f"conversation from {turns[0].where}"
        rows.append(with_weight(Row(where, {"emotion": first["context"], "utterances": utterances}), turns[0]))
    return Table(table.source, ["emotion", "utterances"], rows + bad)


def _place(turn: Row) -> int:
    return whole_number(turn.cells["utterance_idx"])


def _what_is_missing(turns: list[Row]) -> str | None:
    """Return why the sorted utterances of a conversation do not show who says what, or None."""
    if _place(turns[0]) > 1:
        return (
            f"its first utterance has utterance_idx {_place(turns[0])}; expected 1, whose speaker is the one who tells"
        )
    for one, other in pairwise(turns):
        if _place(one) == _place(other):
            return f"utterance_idx {_place(one)} is in {one.where} and {other.where}; expected each number once"
        if _place(one) + 1 < _place(other) and one.cells["speaker_idx"] == other.cells["speaker_idx"]:
            return f"between utterance_idx {_place(one)} and {_place(other)}, the answer of the other person is missing"
    return None

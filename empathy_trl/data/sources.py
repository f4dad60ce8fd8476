"""What all builders share: finding the files of a split, and turning raw rows into usable ones with a report."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from empathy_trl.data.formats import is_table
from empathy_trl.data.tables import BadRow, Report, Row, Table, did_you_mean, quote, settle_bad_rows
from empathy_trl.data.text import truncate_start, truncate_turns
from empathy_trl.errors import DataError, UserError

# Split -> how the names of its files begin.
STEMS = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}
# Split -> what its folder may be called.
FOLDERS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}


def check_split(split: str) -> None:
    """Raise `UserError` unless `split` is "train", "valid" or "test"."""
    if split not in STEMS:
        raise UserError(f"unknown split {split!r}{did_you_mean(split, STEMS)}")


def check_task(name: str, task: str, tasks: tuple[str, ...]) -> None:
    """Raise `UserError` unless the builder `name` has the columns of `task`."""
    if task not in tasks:
        raise UserError(f"the {name} data has no columns for task {task!r}{did_you_mean(task, tasks)}")


def local_path(path: str, sample: str, expected: str):
    """Return the folder or file that `data.path` names; "sample" is the folder `sample` of the package's data.

    `expected` says in the error for a path that is not there what else could stand there.
    """
    found = files("empathy_trl.data").joinpath(sample) if path == "sample" else Path(path).expanduser()
    if not found.is_dir() and not found.is_file():
        raise DataError(f"data.path: no folder {quote(path)} here; expected 'sample' (the embedded corpus), {expected}")
    return found


def local_folder(path: str, sample: str, expected: str):
    """Return what `local_path` does, and refuse a file."""
    folder = local_path(path, sample, expected)
    if folder.is_file():
        raise DataError(f"data.path: {path} is a file; give the folder that holds the split files")
    return folder


def split_file(folder, split: str, suffixes: tuple[str, ...], advice: str = ""):
    """Return the one file of a split in `folder`: one of `STEMS` with one of `suffixes`; `advice` ends the error."""
    names = [stem + suffix for stem in STEMS[split] for suffix in suffixes]
    found = split_files(folder, split, suffixes)
    if len(found) > 1:
        raise DataError(f"data.path: {folder} has several files for the split {split}: {', '.join(found)}; keep one")
    if not found:
        raise DataError(f"data.path: {folder} has no {' or '.join(names)} (files found: {names_in(folder)}){advice}")
    return folder.joinpath(found[0])


def split_files(folder, split: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the names of the files in `folder` that may be those of a split."""
    names = [stem + suffix for stem in STEMS[split] for suffix in suffixes]
    return [name for name in names if folder.joinpath(name).is_file()]


def split_folder(folder, split: str):
    """Return the one sub-folder of a split, by one of the names of `FOLDERS`."""
    found = [name for name in FOLDERS[split] if folder.joinpath(name).is_dir()]
    if len(found) > 1:
        raise DataError(f"data.path: {folder} has several folders for the split {split}: {', '.join(found)}; keep one")
    if not found:
        raise DataError(
            f"data.path: {folder} has no folder {' or '.join(FOLDERS[split])} (files found: {names_in(folder)})"
        )
    return folder.joinpath(found[0])


def tables_in(folder) -> list:
    """Return the table files of a folder, by name."""
    return sorted((entry for entry in folder.iterdir() if entry.is_file() and is_table(entry)), key=lambda e: e.name)


def names_in(folder) -> str:
    """Return the names of the first 20 entries of a folder, for a message."""
    return ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "none"


def usable_rows(
    config, split: str, table: Table, parse: Callable[[Row], dict | BadRow | None], texts: tuple[str, ...] = ("text",)
) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: the rows that `parse` accepts, in order, cut to the portion and shortened.

    `config.portion` (low, high) keeps the rows from int(low * n) to int(high * n) of the n good rows of the
    training split, so portions that share a bound share no row; other splits stay whole.

    Args:
        config: a recipe's `data`; read are `on_bad_rows`, `portion` and `max_words`.
        parse: turns a row into a dict, a `BadRow`, or None for a good row that is none of this task's.
        texts: the keys of a parsed row that are cut to their last `max_words` words; a list is one of turns, which
            have so many words together.

    Raises `DataError` when bad rows are errors, or when no row is left.
    """
    parsed = [row if isinstance(row, BadRow) else parse(row) for row in table.rows]
    bad = [row for row in parsed if isinstance(row, BadRow)]
    good = [row for row in parsed if isinstance(row, dict)]
    dropped = settle_bad_rows(table.source, bad, len(parsed), config.on_bad_rows)
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
    return rows, Report(table.source, len(parsed), dropped, len(rows), shortened, skipped)


def _shorten(text: str | list[str], max_words: int) -> str | list[str]:
    return truncate_start(text, max_words) if isinstance(text, str) else truncate_turns(text, max_words)

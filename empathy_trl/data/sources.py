"""What all builders share: finding the files of a split, and turning raw rows into usable ones with a report.

Data sets on the Hub, or in its cache: loading, and what EmpatheticDialogues needs beyond that.

Train, valid and test parts for data that comes without: 90/10, by row or by conversation.

Turns of one conversation quote and answer each other. A split by row puts some of them on both sides, and a test
figure then measures memory too; a split by conversation does not. Published figures often come from the former,
so both are offered.

Parallel lists: a folder of JSON files, each one list, in which the entries of one place belong together.

The layout of the dialogue and reward data of RLHF-GODEL: `contexts.json`, `targets.json` and so on.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random

from empathy_trl.data.readers import as_text, is_table, read_list
from empathy_trl.data.rows import BadRow, Report, Row, Table, check_columns, did_you_mean, quote, settle_bad_rows
from empathy_trl.errors import DataError, UserError
from empathy_trl.text import truncate_start, truncate_turns

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


# The branch where the Hub keeps every data set as parquet; the main branch of EmpatheticDialogues is a
# script, which `datasets` no longer runs.
HUB_REVISION = "refs/convert/parquet"
_SPLIT_NAMES = {"train": ("train",), "valid": ("validation", "valid", "dev"), "test": ("test",)}


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
    except (ConnectionError, FileNotFoundError, HfHubHTTPError, httpx.TransportError) as error:
        raise UserError(
            f"data.path: cannot load {path!r} (revision {revision}) from the Hub, and there is no folder "
            f"of that name: {error}\nIf it is gated or private, log in with `hf auth login`. Without "
            "network, load it once elsewhere and copy the cache (HF_HOME), or set data.path to a local folder."
        ) from error


def hub_has(path: str, revision: str | None, split: str) -> bool:
    """Say whether a Hub id has a split. Raises what `load_hub` raises."""
    return _split_name(load_hub(path, revision), split) is not None


def hub_split(path: str, revision: str | None, split: str):
    """Return `(name for messages, Dataset)` of one split. Raises what `load_hub` raises, or `DataError`."""
    splits = load_hub(path, revision)
    name = _split_name(splits, split)
    source = hub_source(path, revision, name or split)
    if name is None:
        raise DataError(f"{source}: no such split (splits found: {', '.join(splits)})")
    return source, splits[name]


def hub_source(path: str, revision: str | None, split: str) -> str:
    """Return the name of a Hub split for messages."""
    return f"{path} (revision {revision or HUB_REVISION}, split {split})"


def _split_name(splits, split: str) -> str | None:
    return next((name for name in _SPLIT_NAMES[split] if name in splits), None)


def as_table(source: str, dataset, as_cell: Callable = as_text) -> Table:
    """Return a `Dataset` as a `Table`, values as text; `as_cell` may make something else of them."""
    rows = [
        Row(f"row {number}", {column: as_cell(value) for column, value in row.items()})
        for number, row in enumerate(dataset, 1)
    ]
    if not rows:
        raise DataError(f"{source}: the split has no rows")
    return Table(source, dataset.column_names, rows)


def situations(source: str, dataset) -> Table:
    """Return one row (`text`, `label`) per conversation of EmpatheticDialogues: its situation and its emotion.

    The data set has one row per utterance; `context` (the emotion) and `prompt` (the situation) are the same
    in all rows of a conversation, and its commas are written `_comma_`.
    """
    columns = ("conv_id", "context", "prompt")
    check_columns(source, dataset.column_names, columns)
    rows, seen = [], set()
    cells = zip(*(dataset[column] for column in columns), strict=True)
    for number, (conversation, emotion, situation) in enumerate(cells, 1):
        if conversation not in seen:
            seen.add(conversation)
            text = (situation or "").replace("_comma_", ",")
            rows.append(Row(f"row {number}", {"text": text, "label": emotion or ""}))
    return Table(source, ["text", "label"], rows)


def conversations(source: str, dataset) -> Table:
    """Return one row (`emotion`, `utterances`) per conversation of EmpatheticDialogues, as the local copies have them.

    `utterances` is a list of `{"speaker": "speaker" or "listener", "text"}` in order; who speaks first is the speaker. See
    `situations` for the data set.
    """
    columns = ("conv_id", "utterance_idx", "context", "speaker_idx", "utterance")
    check_columns(source, dataset.column_names, columns)
    said = {}
    for number, cells in enumerate(zip(*(dataset[column] for column in columns), strict=True), 1):
        said.setdefault(cells[0], []).append((cells[1], number, *cells[2:]))
    rows = []
    for turns in said.values():
        turns.sort(key=lambda turn: turn[:2])
        _, first, emotion, speaker, _ = turns[0]
        utterances = [
            {"speaker": "speaker" if who == speaker else "listener", "text": (text or "").replace("_comma_", ",")}
            for *_, who, text in turns
        ]
        rows.append(Row(f"conversation from row {first}", {"emotion": emotion, "utterances": utterances}))
    if not rows:
        raise DataError(f"{source}: the split has no rows")
    return Table(source, ["emotion", "utterances"], rows)


# Not the recipe's seed: runs that differ in their seed are compared on the same test rows.
SPLIT_SEED = 42


def split_rows(
    groups: Iterable[Hashable], seed: int = SPLIT_SEED, held_out: tuple[str, ...] = ("test", "valid")
) -> dict[str, list[int]]:
    """Return `{"train": …, "valid": …, "test": …}`: the numbers of the rows of each part, in ascending order.

    10 % of the rows are `test` (the 90/10 split), 10 % of the rest are `valid`, by which a checkpoint may be chosen;
    `train` keeps 81 %, or 90 % where only one part is `held_out`. Groups are shuffled and never divided; with large groups
    the shares are as near as they get. The result depends on `groups` and `seed` only (Python's own generator, whose
    sequence is stable).

    Args:
        groups: the group of each row, such as its conversation; `range(n)` splits by row.
        seed: of the shuffle.
        held_out: the parts to take from the rows, in this order; data that comes with a test part needs "valid" only.

    Raises `DataError` when a part would be empty.
    """
    groups = list(groups)
    sizes = Counter(groups)
    order = list(sizes)
    Random(seed).shuffle(order)
    part_of = {}
    for part in held_out:
        left = [group for group in order if group not in part_of]
        part_of |= dict.fromkeys(_tenth(left, sizes), part)
    parts = {"train": []} | {part: [] for part in reversed(held_out)}
    for number, group in enumerate(groups):
        parts[part_of.get(group, "train")].append(number)
    empty = [part for part, rows in parts.items() if not rows]
    if empty:
        rows = f"{len(groups)} rows in {len(sizes)} groups"
        raise DataError(f"{rows} are too few for a 90/10 split: no row is left for {' and '.join(empty)}")
    return parts


def split_table(
    table: Table, groups: Iterable[Hashable], by: str, split: str, held_out: tuple[str, ...] = ("test", "valid")
) -> tuple[Table, list[int]]:
    """Return the rows of one part of a table that comes without splits, and their places in it.

    Args:
        groups, held_out: see `split_rows`.
        by: what the groups are, for messages.

    Raises what `split_rows` raises, with the name of the table.
    """
    try:
        numbers = split_rows(groups, held_out=held_out)[split]
    except DataError as error:
        raise DataError(f"{table.source}: {error}") from error
    source = f"{table.source} ({split} of a 90/10 split by {by})"
    return Table(source, table.columns, [table.rows[number] for number in numbers]), numbers


def _tenth(groups: list, sizes: Counter) -> list:
    """Return those of `groups`, taken in order, that bring the number of rows nearer to a tenth of all."""
    target = sum(sizes[group] for group in groups)
    taken, rows = [], 0
    for group in groups:
        if abs(10 * (rows + sizes[group]) - target) < abs(10 * rows - target):
            taken.append(group)
            rows += sizes[group]
    return taken


def read_lists(folder, needed: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Return the lists of some files as a table, file name -> column; "row 1" has the first entry of each as it stands there.

    The cells of an optional file that is not there are None.

    Raises `DataError` when a needed file is missing, a file is no JSON list, or one list is longer than another.
    """
    missing = [name for name in needed if not folder.joinpath(name).is_file()]
    if missing:
        raise DataError(f"data.path: {folder} has no {' and no '.join(missing)} (files found: {names_in(folder)})")
    columns = [*needed, *optional]
    lists = {name: read_list(folder.joinpath(name)) for name in columns if folder.joinpath(name).is_file()}
    length = len(lists[needed[0]])
    for name, entries in lists.items():
        if len(entries) != length:
            raise DataError(
                f"{folder}: {name} has {len(entries)} entries, {needed[0]} has {length}; the entries of one place belong "
                "together, so all lists have to be equally long"
            )
    cells = zip(*(lists.get(name, [None] * length) for name in columns), strict=True)
    rows = [Row(f"row {number}", dict(zip(columns, row, strict=True))) for number, row in enumerate(cells, 1)]
    return Table(str(folder), columns, rows)

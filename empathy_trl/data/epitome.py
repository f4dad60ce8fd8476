"""EPITOME: three mechanisms of empathy in a response to a seeker's post, each none, weak or strong.

After Sharma et al. (2020), "A Computational Approach to Understanding Empathy Expressed in Text-Based Mental Health
Support" (EMNLP). Emotional reactions express warmth or concern, interpretations tell an understanding of the seeker's
feelings and experiences, explorations ask about what the post leaves open. The published data are one CSV per
mechanism; they are joined on the ids of the two posts and split 90/10, so that all responses to a seeker are in one
part.
"""

from empathy_trl.data import on_hub
from empathy_trl.data.readers import SUFFIXES, read_table
from empathy_trl.data.rows import BadRow, Report, Row, Table, check_columns, quote
from empathy_trl.data.sources import (
    as_table,
    check_split,
    check_task,
    hub_split,
    local_path,
    split_file,
    split_table,
    usable_rows,
)
from empathy_trl.text import clean

TASKS = ("classify",)
MECHANISMS = ("emotional_reactions", "interpretations", "explorations")
LEVELS = ("0", "1", "2")

_POSTS = ("seeker_post", "response_post")
_PUBLISHED = {mechanism: f"{mechanism.replace('_', '-')}-reddit.csv" for mechanism in MECHANISMS}
_EXPECTED = (
    f"a folder with {', '.join(_PUBLISHED.values())}, a folder with train, valid and test tables of the columns "
    f"{', '.join(_POSTS + MECHANISMS)}, one such table, or a Hub id"
)


def targets(config) -> dict[str, tuple[str, ...]]:
    """Return `{mechanism: ("0", "1", "2")}` for the three mechanisms, in the order of `labels`."""
    return dict.fromkeys(MECHANISMS, LEVELS)


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, one row per pair of posts, in the order of the source.

    Columns: `text` (clean seeker post), `pair` (clean response post), `labels` (three ints from 0 to 2).

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    check_task("epitome", task, TASKS)
    rows, _ = read_split(config, split)
    from datasets import Dataset, Features, List, Value

    columns = {"text": Value("string"), "pair": Value("string"), "labels": List(Value("int64"))}
    return Dataset.from_dict({name: [row[name] for row in rows] for name in columns}, features=Features(columns))


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: dicts with `text`, `pair` and `labels` (three ints). Both posts have `max_words` each.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is left;
    `UserError` for an unknown split or a Hub id that cannot be loaded.
    """
    check_split(split)
    table = _read_source(config, split)
    check_columns(table.source, table.columns, _POSTS + MECHANISMS)
    return usable_rows(config, split, table, _parse, texts=("text", "pair"))


def _parse(row: Row) -> dict | BadRow:
    posts = [clean(row.cells[post]) for post in _POSTS]
    for name, post in zip(_POSTS, posts, strict=True):
        if not post:
            detail = f"nothing is left of {name} {quote(row.cells[name])} after cleaning"
            return BadRow(row.where, "empty text", detail)
    levels = [row.cells[mechanism].strip() for mechanism in MECHANISMS]
    for mechanism, level in zip(MECHANISMS, levels, strict=True):
        if level not in LEVELS:
            return BadRow(row.where, "unknown level", f"{mechanism} is {quote(level)}; expected 0, 1 or 2")
    return {"text": posts[0], "pair": posts[1], "labels": [int(level) for level in levels]}


def _read_source(config, split: str) -> Table:
    """Return the table of one split, from whatever kind of source `config.path` names."""
    if on_hub(config.path):
        return as_table(*hub_split(config.path, config.revision, split))
    path = local_path(config.path, "sample/epitome", _EXPECTED)
    if path.is_file():
        table = read_table(path, _POSTS + MECHANISMS)
        return _part(table, split, [row.cells["seeker_post"] if isinstance(row, Row) else None for row in table.rows])
    if path.joinpath(_PUBLISHED[MECHANISMS[0]]).is_file():
        return _part(*_join_published(path, split))
    return read_table(split_file(path, split, SUFFIXES))


def _part(table: Table, split: str, seekers: list[str | None]) -> Table:
    """Return the rows of one part of a table without splits; a row without a seeker is a group of its own."""
    groups = [number if seeker is None else seeker for number, seeker in enumerate(seekers)]
    return split_table(table, groups, "seeker post", split)[0]


def _join_published(folder, split: str) -> tuple[Table, str, list[str | None]]:
    """Join the three published files on (sp_id, rp_id); a pair that one of them lacks is a bad row.

    Returns the arguments of `_part`.
    """
    joined, bad = {}, []
    for mechanism, name in _PUBLISHED.items():
        table = read_table(folder.joinpath(name), ("sp_id", "rp_id", *_POSTS, "level"))
        for row in table.rows:
            where = f"{name}, {row.where}"
            if isinstance(row, BadRow):
                bad.append(BadRow(where, row.reason, row.detail))
                continue
            key = row.cells["sp_id"], row.cells["rp_id"]
            cells = joined.setdefault(key, {"where": where} | {post: row.cells[post] for post in _POSTS})
            if mechanism in cells:
                bad.append(BadRow(where, "second row of a pair", f"sp_id {key[0]}, rp_id {key[1]}"))
            cells.setdefault(mechanism, row.cells["level"])
    rows = [_joined_row(key, cells) for key, cells in joined.items()]
    seekers = [seeker for seeker, _ in joined] + [None] * len(bad)
    return Table(str(folder), [*_POSTS, *MECHANISMS], rows + bad), split, seekers


def _joined_row(key: tuple[str, str], cells: dict[str, str]) -> Row | BadRow:
    missing = [_PUBLISHED[mechanism] for mechanism in MECHANISMS if mechanism not in cells]
    if missing:
        detail = f"sp_id {key[0]}, rp_id {key[1]} is not in {' and '.join(missing)}"
        return BadRow(cells["where"], "pair without a level", detail)
    return Row(cells["where"], {name: cells[name] for name in (*_POSTS, *MECHANISMS)})

"""How empathic is a response? Three mechanisms, each at level 0 (none), 1 (weak) or 2 (strong): EPITOME.

Emotional reactions express warmth or concern, interpretations understanding, explorations interest (Sharma et al. 2020, "A
Computational Approach to Understanding Empathy Expressed in Text-Based Peer Support"). The input is a pair, the seeker's
post and the response.

A folder holds the three published files, one per mechanism, or train, valid and test files with one row per pair. The
published ones come without a split: 90/10 by seeker post (see `splits.py`), so that no post is on both sides.
"""

from empathy_trl.data.formats import SUFFIXES, read_table
from empathy_trl.data.normalize import normalize
from empathy_trl.data.sources import check_split, check_task, local_folder, split_file, usable_rows
from empathy_trl.data.splits import split_rows
from empathy_trl.data.tables import BadRow, Report, Row, Table, check_columns, quote
from empathy_trl.errors import DataError

TASKS = ("classify",)
MECHANISMS = ("emotional_reactions", "interpretations", "explorations")
LEVELS = ("0", "1", "2")
TEXTS = ("seeker_post", "response_post")

_FILES = {name: f"{name.replace('_', '-')}-reddit.csv" for name in MECHANISMS}
_EXPECTED = f"a folder with {', '.join(_FILES.values())}, or with train, valid and test files"


def targets(config) -> dict[str, tuple[str, ...]]:
    """Return the three groups of labels, one per mechanism."""
    return dict.fromkeys(MECHANISMS, LEVELS)


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`: `text` (the seeker's post), `pair` (the response), `labels` (three levels)."""
    check_task("epitome", task, TASKS)
    rows, _ = read_split(config, split)
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "text": [row["text"] for row in rows],
            "pair": [row["pair"] for row in rows],
            "labels": [[LEVELS.index(row[name]) for name in MECHANISMS] for row in rows],
        }
    )


def read_split(config, split: str) -> tuple[list[dict[str, str]], Report]:
    """Return `(rows, report)` of one split: dicts with `text`, `pair`, and a level, as text, for each of `MECHANISMS`.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is left.
    """
    check_split(split)

    def parse(row: Row) -> dict[str, str] | BadRow:
        text, pair = (normalize(row.cells[name], **config.normalize.model_dump()) for name in TEXTS)
        for name, cleaned in zip(TEXTS, (text, pair), strict=True):
            if not cleaned.strip():
                return BadRow(
                    row.where, f"empty {name}", f"nothing is left of {quote(row.cells[name])} after normalisation"
                )
        levels = {name: row.cells[name].strip() for name in MECHANISMS}
        for name, level in levels.items():
            if level not in LEVELS:
                return BadRow(row.where, f"bad {name}", f"{quote(row.cells[name])} (choices: {', '.join(LEVELS)})")
        return {"text": text, "pair": pair} | levels

    return usable_rows(config, split, _read_source(config, split), parse, ("text", "pair"))


def _read_source(config, split: str) -> Table:
    folder = local_folder(config.path, "sample/epitome", _EXPECTED)
    published = [name for name in _FILES.values() if folder.joinpath(name).is_file()]
    if not published:
        return read_table(split_file(folder, split, SUFFIXES), (*TEXTS, *MECHANISMS))
    missing = [name for name in _FILES.values() if name not in published]
    if missing:
        raise DataError(f"data.path: {folder} has {', '.join(published)}, but no {', '.join(missing)}")
    whole = _joined({name: read_table(folder.joinpath(file)) for name, file in _FILES.items()})
    groups = [row.cells["sp_id"] if isinstance(row, Row) else row.where for row in whole.rows]
    rows = [whole.rows[number] for number in split_rows(groups)[split]]
    return Table(f"{folder} ({split}, by seeker post)", whole.columns, rows)


def _joined(tables: dict[str, Table]) -> Table:
    """Return one table of the published ones, which share their pairs: a level per mechanism in each row."""
    for table in tables.values():
        check_columns(table.source, table.columns, ("sp_id", "rp_id", *TEXTS, "level"))
    levels = {
        name: {_ids(row): row.cells["level"] for row in table.rows if isinstance(row, Row)}
        for name, table in tables.items()
    }
    first = tables[MECHANISMS[0]]
    rows = []
    for row in first.rows:
        if isinstance(row, Row):
            found = {name: known.get(_ids(row), "") for name, known in levels.items()}
            row = Row(row.where, row.cells | found)
        rows.append(row)
    return Table(first.source, [*first.columns, *MECHANISMS], rows)


def _ids(row: Row) -> tuple[str, str]:
    return row.cells["sp_id"], row.cells["rp_id"]

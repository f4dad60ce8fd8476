"""Parallel lists: a folder of JSON files, each one list, in which the entries of one place belong together.

The layout of the dialogue and reward data of RLHF-GODEL: `contexts.json`, `targets.json` and so on.
"""

from collections.abc import Sequence

from empathy_trl.data.formats import read_list
from empathy_trl.data.sources import names_in
from empathy_trl.data.tables import Row, Table
from empathy_trl.errors import DataError


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

"""Train, valid and test parts of data that comes without splits: 90/10, by row or by conversation.

Turns of one conversation quote and answer each other. A split by row puts some of them on both sides, and a test figure then
measures memory too; a split by conversation does not. Published figures often come from a split by row, so both exist.
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from random import Random

from empathy_trl.data.tables import Table
from empathy_trl.errors import DataError

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

"""Rows dealt out to the processes of an evaluation."""

from collections.abc import Callable

from accelerate import PartialState
from accelerate.utils import gather_object


def shared(items: list, work: Callable[[list], list]) -> list:
    """Return what `work` makes of the items, in their order; each process does its share, and all get everything.

    Args:
        items: the same in all processes.
        work: items -> one result each.
    """
    state = PartialState()
    own = range(state.process_index, len(items), state.num_processes)
    results = work([items[row] for row in own])
    return [result for _, result in sorted(gather_object(list(zip(own, results, strict=True))))]

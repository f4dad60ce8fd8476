"""A text that is written in a thread and read as it comes."""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

_END = object()


class Either:
    """Is set when one of two events is."""

    def __init__(self, first: threading.Event, second: threading.Event):
        self.is_set = lambda: first.is_set() or second.is_set()


def streamed(write: Callable[[Callable[[str], None], Either], None], stop: threading.Event) -> Iterator[str]:
    """Yield what `write(put, stopped)` puts, without empty texts.

    Args:
        write: runs in a thread of its own, and ends soon after `stopped.is_set()`. What it raises is raised here.
        stop: ends it; what was put by then is still read. Leaving the iterator ends it, too, and waits for the thread.
    """
    queue, left = SimpleQueue(), threading.Event()

    def run():
        try:
            write(queue.put, Either(stop, left))
            queue.put(_END)
        except BaseException as error:  # noqa: BLE001 - it is the reader's to know
            queue.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            if item:
                yield item
    finally:
        left.set()
        thread.join()

"""Who talks on the page: one conversation per open page, found by the key of its browser session.

Gradio calls that key `session_hash`. It is 52 random bits that each page draws for itself, sends with every request and
shows nobody else, and no answer of the server lists them: who names another one by chance gets a new conversation.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from empathy_trl.chat.session import SessionEvent
from empathy_trl.chat.web.view import Turn, latency
from empathy_trl.errors import UserError

MOST = 32  # conversations kept, each with the key-value cache of its history
IDLE_SECONDS = 3600.0
LONGEST_SHOWN = 100  # turns
_END = None

log = logging.getLogger(__name__)


class Conversation:
    """A session and what the page shows of it.

    Everything the session does is done by one thread of its own: in order, and whatever thread the server asks from.

    Args:
        make_session: returns a `Session`; called with the first message.
    """

    def __init__(self, make_session: Callable):
        self.turns: list[Turn] = []
        self._make_session, self._session = make_session, None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="conversation")
        self._stopped = threading.Event()
        self._taken = threading.Lock()  # from a message to the end of its reply

    @property
    def replying(self) -> bool:
        """Whether a reply is being written."""
        return self._taken.locked()

    def reply(self, message: str, notices: Sequence[str] = ()) -> Iterator[Turn]:
        """Yield the turn whenever there is more of it to show; the last time when it is done.

        Args:
            message: from the user.
            notices: to be shown with it.

        Raises:
            UserError: a reply is being written.
        """
        if not self._taken.acquire(blocking=False):
            raise UserError("a reply is being written; wait for its end, or stop it")
        turn, chunks = Turn(message, before=[*notices]), queue.SimpleQueue()
        try:
            self._stopped.clear()
            self.turns = [*self.turns, turn][-LONGEST_SHOWN:]
            self._worker.submit(self._speak, message, turn, chunks)
            yield turn
            while not turn.done:
                # all there is by now, so that a page that takes them slower than they come does not fall behind
                for chunk in [chunks.get(), *(chunks.get() for _ in range(chunks.qsize()))]:
                    if chunk is _END:
                        turn.done = True
                    else:
                        turn.add(chunk)
                yield turn
        finally:
            if not turn.done:  # nobody is watching any more
                self.stop()
            self._taken.release()

    def stop(self):
        """End the reply that is being written, if any; what there is of it stays."""
        self._stopped.set()
        if self._session is not None:
            self._session.stop()

    def reset(self):
        """Forget everything; returns when it is forgotten, after the reply that was being written."""
        self.stop()
        self._worker.submit(self._forget).result()

    def close(self):
        """Stop, and let go of the session as soon as the reply has ended."""
        self.stop()
        if self._session is not None:
            self._session.leave()  # others wait for the model
        self._worker.submit(self._let_go)
        self._worker.shutdown(wait=False)

    def _speak(self, message: str, turn: Turn, chunks: queue.SimpleQueue):
        try:
            if self._session is None:
                self._session = self._make_session()
            if self._stopped.is_set():
                chunks.put(SessionEvent("stopped"))
            else:
                self._send(message, turn, chunks)
        except UserError as error:
            turn.error = str(error)
        except Exception:
            log.exception("a reply failed")
            turn.error = "The reply failed; the server's log says why."
        finally:
            chunks.put(_END)
        if not (turn.error or self._stopped.is_set()):
            self._prepare()

    def _send(self, message: str, turn: Turn, chunks: queue.SimpleQueue):
        session, earlier = self._session, self._session.stats
        for chunk in session.send(message):
            chunks.put(chunk)
            if self._stopped.is_set():  # `send` forgets that it was stopped before it began
                session.stop()
        if session.stats is earlier:  # nothing was said
            return
        turn.stats = latency(session.stats)
        if not session.well_formed and not self._stopped.is_set():
            turn.broken = session.history[-1]["content"]

    def _prepare(self):
        """Work ahead for the next turn, while the user reads."""
        try:
            self._session.prepare()
        except Exception:
            log.exception("working ahead failed")

    def _forget(self):
        if self._session is not None:
            self._session.reset()
        self.turns = []

    def _let_go(self):
        self._session, self.turns = None, []


class Visitors:
    """The conversations by key: a bounded number, none of them idle for too long.

    Args:
        make_session: returns a new `Session`.
        most: how many conversations there may be; for one more, the one that has been idle longest is dropped.
        idle_seconds: conversations without a message for longer are dropped when the next message of anybody comes.
        clock: returns seconds.
    """

    def __init__(
        self,
        make_session: Callable,
        most: int = MOST,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.make_session, self.most, self.idle_seconds, self.clock = make_session, most, idle_seconds, clock
        self._found: dict[str, tuple[Conversation, float]] = {}  # with the time of the last message, oldest first
        self._lock = threading.Lock()

    def find(self, key: str) -> Conversation | None:
        """Return the conversation of a key, None if there is none (any more)."""
        conversation, _ = self._found.get(key, (None, None))
        return conversation

    def open(self, key: str) -> Conversation:
        """Return the conversation of a key for one more message, a new one if there is none.

        Raises:
            UserError: there is no key, or all places are taken by replies that are being written.
        """
        if not key:
            raise UserError("no session: expected a request of this page")
        with self._lock:
            now = self.clock()
            conversation, _ = self._found.pop(key, (None, None))
            self._make_room(now)
            self._found[key] = (conversation or Conversation(self.make_session), now)
            return self._found[key][0]

    def drop(self, key: str):
        """Forget a conversation."""
        with self._lock:
            conversation, _ = self._found.pop(key, (None, None))
        if conversation is not None:
            conversation.close()

    def close(self):
        """Forget all."""
        for key in list(self._found):
            self.drop(key)

    def _make_room(self, now: float):
        """Drop what has been idle for too long, and of the rest the longest idle while there is no room for one more."""
        idle = [key for key, (conversation, _) in self._found.items() if not conversation.replying]
        for key in idle:
            if len(self._found) < self.most and now - self._found[key][1] <= self.idle_seconds:
                break
            self._found.pop(key)[0].close()
        if len(self._found) >= self.most:
            raise UserError(f"all {self.most} places are taken; try again in a minute")

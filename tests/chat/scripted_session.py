"""A session without a model: what it replies is written down, and it waits where a test wants to look."""

import threading

from empathy_trl.chat.reply import ReplyReader
from empathy_trl.chat.session import SessionEvent, Stats
from empathy_trl.errors import UserError


class Wait(threading.Event):
    """In a script: go on once this is set, or the reply is stopped."""


class ScriptedSession:
    """Replies with the script of a message: texts, notices, errors to raise, and `Wait`s.

    A message without a script is answered with all that the user has said so far, in three parts.

    Args:
        scripts: message -> script.
    """

    def __init__(self, scripts: dict[str, list] | None = None):
        self.scripts = scripts or {}
        self.history: list[dict] = []
        self.well_formed: bool | None = None
        self.prepared, self.left = 0, False
        self._stop = threading.Event()
        self.stats: Stats | None = None

    def send(self, message):
        if not message.strip():
            raise UserError("the message is empty")
        self._stop.clear()
        self.history.append({"role": "user", "content": message})
        reader, said = ReplyReader(), []
        for item in self.scripts.get(message) or [self._all_said()]:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Wait):
                while not (item.wait(0.01) or self._stop.is_set()):
                    pass
            elif isinstance(item, str):
                said.append(item)
                yield from reader.feed(item)
            else:
                yield item
            if self._stop.is_set():
                break
        yield from reader.close()
        self.well_formed = reader.well_formed
        if said:
            self.history.append({"role": "assistant", "content": "".join(said)})
            self.stats = Stats(reaction=0.21, first_word=0.35, whole=0.96, tokens=40)
        if self._stop.is_set():
            yield SessionEvent("stopped")

    def stop(self):
        self._stop.set()

    def leave(self):
        self.left = True
        self.stop()

    def reset(self):
        self.history = []

    def prepare(self):
        self.prepared += 1

    def _all_said(self) -> str:
        said = ", ".join(message["content"] for message in self.history if message["role"] == "user")
        return (
            f"<react>*nods* + *leans in*</react><respond>I know of: {said}</respond><reflect>What comes next?</reflect>"
        )

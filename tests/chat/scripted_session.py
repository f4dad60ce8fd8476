"""A session without a model: what it replies is written down, and it waits where a test wants to look."""

import threading

from empathy_trl.chat.reply import Counts
from empathy_trl.chat.session import Session, Settings
from empathy_trl.chat.setup import Prompts


class Wait(threading.Event):
    """In a script: go on once this is set, or the reply is stopped."""


class ScriptedReplies:
    """A model that replies to a message with its script: texts, errors to raise, and `Wait`s.

    A message without a script is answered with all that the user has said so far, in three parts.

    Args:
        scripts: message -> script.
    """

    is_decoder, positions = True, 1000

    def __init__(self, scripts: dict[str, list]):
        self.scripts = scripts

    def new_cache(self):
        return Counted()

    def count(self, messages, cache):
        return sum(len(message["content"].split()) for message in messages)

    def prefill(self, prompts, cache, stop):
        cache.prefilled += 1

    def stream(self, messages, cache, stop, max_new_tokens):
        said = [message["content"] for message in messages if message["role"] == "user"]
        usual = f"<react>*nods*</react><respond>I know of: {', '.join(said)}</respond><reflect>What next?</reflect>"
        for item in self.scripts.get(said[-1], [usual]):
            if isinstance(item, Exception):
                raise item
            if isinstance(item, str):
                yield item
            while isinstance(item, Wait) and not (item.wait(0.01) or stop.is_set()):
                pass
            if stop.is_set():
                return


class Counted:
    """What `ScriptedReplies` keeps of a session."""

    def __init__(self):
        self.counts, self.prefilled = Counts(), 0


def scripted_session(scripts: dict[str, list] | None = None) -> Session:
    """Return a real `Session` with such a model."""
    return Session(ScriptedReplies(scripts or {}), Prompts(), Settings(max_new_tokens=100))

"""A model that says what it is told to, and a session with it that waits where a test wants to look."""

import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace

from empathy_trl.chat.prompts import Prompts
from empathy_trl.chat.reply import Counts
from empathy_trl.chat.session import Session, Settings

# a reply in three parts, cut within its tags
STAGED = [
    "<react>*no",
    "ds* + *sits*</re",
    "act>\n<respond>I am",
    " here.</respond>\n<reflect>They",
    " wait.</reflect>",
]


class ScriptedModel:
    """Replies with the steps of a script, the last one for ever; a word is a token.

    Args:
        replies: each an iterable of texts, or a function of (messages, stop) that returns one.

    Attributes:
        prompts: messages of all prompts.
        prefilled: what was computed ahead of time.
    """

    is_decoder = True

    def __init__(self, *replies: Iterable[str] | Callable, positions: int = 1000):
        self.replies = list(replies)
        self.positions = self.default_context = self.writes = positions
        self.prompts, self.prefilled = [], []

    def new_cache(self):
        return SimpleNamespace(counts=Counts())

    def count(self, messages, cache):
        return sum(1 + len(message["content"].split()) for message in messages)

    def prefill(self, prompts, cache, stop):
        self.prefilled.append(prompts)

    def stream(self, messages, cache, stop, max_new_tokens):
        reply = self.replies[min(len(self.prompts), len(self.replies) - 1)]
        self.prompts.append(messages)
        cache.counts = Counts(prefilled=self.count(messages, cache))
        for text in reply(messages, stop) if callable(reply) else reply:
            if stop.is_set():
                return
            cache.counts.written += 1
            yield text


class Wait(threading.Event):
    """In a script: go on once this is set, or the reply is stopped."""


def scripted_session(scripts: dict[str, list] | None = None) -> Session:
    """Return a session that replies to a message with its script: texts, errors to raise, and `Wait`s.

    A message without a script is answered with all that the user has said so far, in three parts.
    """

    def reply(messages, stop):
        users = [message["content"] for message in messages if message["role"] == "user"]
        usual = f"<react>*nods*</react><respond>I know of: {', '.join(users)}</respond><reflect>What next?</reflect>"
        for item in (scripts or {}).get(users[-1], [usual]):
            if isinstance(item, Exception):
                raise item
            if isinstance(item, str):
                yield item
            while isinstance(item, Wait) and not (item.wait(0.01) or stop.is_set()):
                pass

    return Session(ScriptedModel(reply), Prompts(), Settings(max_new_tokens=100))

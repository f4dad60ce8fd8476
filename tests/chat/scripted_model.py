"""A model that says what it is told to, for what is built on one."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace

from empathy_trl.chat.reply import Counts

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
        self.replies, self.positions = list(replies), positions
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

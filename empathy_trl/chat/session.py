"""A conversation with a model: its history, the part that fits into the context, and timings of replies.

The terminal and the web page use a session in the same way: `send` a message, show the reply, and `prepare` the next
turn while the user reads. The session keeps the whole conversation; the model sees the part that fits into its context.
When the context is full, the oldest exchanges are cut until a quarter of it is free. A cut invalidates the key-value
cache, so it should be rare, and `prepare` makes it while the user is not waiting.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from empathy_trl.chat.reply import TEXT, Chunk, ReplyReader
from empathy_trl.errors import UserError
from empathy_trl.io import user_path, write_rows
from empathy_trl.tags import REACT, REFLECT, RESPOND, completion_text, read_parts, thought_text, without_thoughts

LARGEST_CONTEXT = 8192  # tokens, unless the user asks for more
DEFAULT_CONTEXT = 4096  # tokens, for a model that does not state its maximum
LONGEST_MESSAGE = 1_000_000  # characters; longer ones are refused without counting their tokens
SPOKEN = (RESPOND, "answer", TEXT)  # parts whose first word the user waits for


@dataclass(frozen=True)
class SessionEvent:
    """A message of the session to the user, such as that the history was cut; shown apart from the reply."""

    text: str


@dataclass(frozen=True)
class Settings:
    """Limits of a session.

    Attributes:
        context: tokens that the model sees, reply included; None for all it can read, at most `LARGEST_CONTEXT`, or
            `DEFAULT_CONTEXT` where it does not say how much that is.
        max_new_tokens: of a reply; at most half of a decoder's context, or the positions of an encoder-decoder's decoder.
    """

    context: int | None = None
    max_new_tokens: int = 400


@dataclass
class Stats:
    """Figures of one reply; times in seconds from `send` on, None for what did not come.

    Attributes:
        reaction: until the reaction was complete.
        first_word: until the first word of the response, the answer or a plain reply.
        whole: until the end.
        tokens: written; of a model behind a server, chunks it sent.
        prefilled: tokens of the prompt that were computed now.
        cached: tokens of the prompt that had been computed before.
    """

    reaction: float | None = None
    first_word: float | None = None
    whole: float | None = None
    tokens: int = 0
    prefilled: int = 0
    cached: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of the reply by its whole time, waiting for the first one included."""
        return self.tokens / self.whole if self.whole else None


@dataclass
class _Conversation:
    """The state between two resets. A reply belongs to the state in which it began, so that it leaves no trace after a reset."""

    cache: object
    history: list[dict[str, str]] = field(default_factory=list)
    all_stats: list[Stats] = field(default_factory=list)
    well_formed: bool | None = None
    seen_from: int = 0  # index in the history of what the model still sees
    forgotten: int = 0  # turns that went since the user was told
    working: threading.Lock = field(default_factory=threading.Lock)  # held while a reply or the next turn is computed
    writing: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    left: bool = False  # nobody will go on with it

    def is_set(self) -> bool:
        """Whether `prepare` should end, because the user has left, or stops the reply that waits for it."""
        return self.left or (self.writing and self.stop.is_set())


class Session:
    """Talks to a model.

    Args:
        model: a `LocalModel` or `ServedModel`; sessions may share it.
        prompts: see `prompts.Prompts`.
        settings: its limits.

    Raises:
        UserError: the context exceeds the model's positions or leaves no room for a message, or the model's chat template
            refuses the system message.
    """

    def __init__(self, model, prompts, settings: Settings):
        self.model, self.prompts = model, prompts
        self.context = settings.context or min(model.default_context or DEFAULT_CONTEXT, LARGEST_CONTEXT)
        if model.positions and self.context > model.positions:
            raise UserError(f"context: {self.context} tokens; the model reads at most {model.positions}")
        self.max_new_tokens = settings.max_new_tokens
        if model.is_decoder:
            self.max_new_tokens = min(self.max_new_tokens, max(1, self.context // 2))
        elif model.writes:
            self.max_new_tokens = min(self.max_new_tokens, model.writes)
        self._room = self.max_new_tokens if model.is_decoder else 0
        self._conversation = _Conversation(model.new_cache())
        self._fixed = self._alone("")  # tokens of a prompt without a word
        if self._fixed + self._room >= self.context:
            raise UserError(
                f"context: {self.context} tokens leave no room for a message: the prompt around it takes {self._fixed}, a reply "
                f"up to {self._room} (max_new_tokens)"
            )

    @property
    def history(self) -> list[dict[str, str]]:
        """The conversation, `{"role", "content"}`, replies as the model wrote them, a stopped one as far as it came."""
        return self._conversation.history

    @property
    def well_formed(self) -> bool | None:
        """Whether the last reply is written as its format asks; None before the first, and where it was stopped."""
        return self._conversation.well_formed

    @property
    def all_stats(self) -> list[Stats]:
        """Figures of every reply."""
        return self._conversation.all_stats

    @property
    def stats(self) -> Stats | None:
        """Figures of the last reply; None before the first."""
        return self.all_stats[-1] if self.all_stats else None

    @property
    def thought(self) -> str:
        """What the model thought before its last reply; "" if it did not think."""
        return thought_text(self.history[-1]["content"]) if self.history else ""

    @property
    def reflection(self) -> str | None:
        """The reflection of the last reply, if that is well-formed and has such a part."""
        parts = read_parts(self.history[-1]["content"]) if self.history else None
        return parts and parts[REFLECT]

    def send(self, message: str) -> Iterator[Chunk | SessionEvent]:
        """Send a message and yield the reply as it comes.

        When the iterator ends or is closed, `history`, `well_formed` and `stats` include this reply. A message whose reply
        is empty or fails does not stay in the history.

        Raises:
            UserError: the message is empty, or longer than the context. While the reply comes: what the model raises, or
                another reply of this session is being written.
        """
        if not message.strip():
            raise UserError("the message is empty")
        conversation = self._conversation
        if not conversation.writing:
            conversation.stop = threading.Event()  # heard from here on, while a long message is counted, too
        self._check_length(message)
        return self._reply(conversation, message)

    def stop(self):
        """End the reply that is being written and keep what there is of it. Any thread may call this at any time."""
        self._conversation.stop.set()

    def leave(self):
        """End a reply that is being written, and `prepare`, and free the cache: the user does not go on."""
        self.stop()
        self._conversation.left = True
        self._conversation.cache = self.model.new_cache()

    def reset(self):
        """Forget the conversation; ends a reply that is being written."""
        self.leave()
        self._conversation = _Conversation(self.model.new_cache())

    def prepare(self):
        """Do the next turn's work that does not depend on its message: cut the history, prefill what precedes the message."""
        conversation = self._conversation
        if not conversation.history or conversation.writing or not conversation.working.acquire(blocking=False):
            return
        one, other = ([*conversation.history, {"role": "user", "content": word}] for word in "ab")
        try:
            # with room for a message, so that `send` has nothing to cut
            self._cut(conversation, one, margin=self.context // 8)
            self.model.prefill(
                (self._prompt(conversation, one), self._prompt(conversation, other)), conversation.cache, conversation
            )
        except UserError:
            pass  # `send` meets the same error and reports it
        finally:
            conversation.working.release()

    def undo(self) -> str:
        """Take the last message and its reply back, and return the message.

        Raises:
            UserError: the conversation is empty, or a reply is being written.
        """
        conversation = self._conversation
        if conversation.writing:
            raise UserError("the last reply is still being written; stop it first")
        if not conversation.history:
            raise UserError("the conversation is empty")
        with conversation.working:
            *conversation.history, message, _ = conversation.history
            conversation.seen_from = min(conversation.seen_from, len(conversation.history))
            conversation.all_stats.pop()
            conversation.well_formed = None
        return message["content"]

    def save(self, path: str | Path) -> Path:
        """Write the conversation as one row of training data, `{"conversation_id", "messages"}`, and return where.

        Thoughts are left out (`tags.without_thoughts`).

        Raises:
            UserError: the conversation is empty, the file exists, or it cannot be written.
        """
        if not self.history:
            raise UserError("the conversation is empty")
        try:
            path = user_path(path)
            if not path.exists():
                turns = [turn | {"content": completion_text([turn])} for turn in self.history]
                return write_rows(path, [{"conversation_id": path.stem, "messages": turns}])
        except (OSError, RuntimeError, ValueError) as error:  # the latter two: nobody's home, a zero byte
            raise UserError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
        raise UserError(f"{path}: exists; choose another name")

    def summary(self) -> str:
        """Return the statistics of the last reply and the medians of all, as text."""
        if self.stats is None:
            return "no reply yet"
        last, middle = self.stats, {}
        for name in ("reaction", "first_word", "whole", "tokens_per_second"):
            values = [value for stats in self.all_stats if (value := getattr(stats, name)) is not None]
            middle |= {name: median(values)} if values else {}
        rate = middle.pop("tokens_per_second", None)
        return (
            f"last reply: {_times(last)}; {last.tokens} tokens{_rate(last.tokens_per_second)}\n"
            f"its prompt: {last.prefilled} tokens computed, {last.cached} taken from earlier turns\n"
            f"median of {len(self.all_stats)}: {_times(Stats(**middle))}{_rate(rate)}"
        )

    def _reply(self, conversation: _Conversation, message: str) -> Iterator[Chunk | SessionEvent]:
        if conversation.writing:
            raise UserError("the last reply is still being written; stop it first")
        started = time.perf_counter()
        stats, reader, texts = Stats(), ReplyReader(self.prompts.expects), []
        conversation.writing = failed = True
        try:
            with conversation.working:
                history = [*conversation.history, {"role": "user", "content": message}]
                self._cut(conversation, history)
                if conversation.forgotten:
                    yield SessionEvent(
                        f"the context is full: the model no longer sees the oldest {conversation.forgotten} turns"
                    )
                    conversation.forgotten = 0
                prompt = self._prompt(conversation, history)
                for text in self.model.stream(prompt, conversation.cache, conversation.stop, self.max_new_tokens):
                    texts.append(text)
                    yield from _timed(reader.feed(text), stats, started)
            failed = False
        except GeneratorExit:  # whoever read the reply left: it stays as far as it came
            failed = False
            raise
        finally:
            rest = reader.close()
            conversation.writing = False
            reply = without_thoughts("".join(texts)).strip()
            if not failed and reply:
                stats.whole, counts = time.perf_counter() - started, conversation.cache.counts
                stats.tokens, stats.prefilled, stats.cached = counts.written, counts.prefilled, counts.cached
                conversation.history = [*history, {"role": "assistant", "content": "".join(texts)}]
                conversation.well_formed = None if conversation.stop.is_set() else reader.well_formed
                conversation.all_stats.append(stats)
        yield from _timed(rest, stats, started)
        if conversation.stop.is_set():
            yield SessionEvent("stopped")
        elif not reply and conversation.cache.counts.cut_off:
            yield SessionEvent(f"the reply had not begun after {self.max_new_tokens} tokens; raise max_new_tokens")
        elif not reply:
            yield SessionEvent("the reply is empty; rephrase the message")
        elif conversation.cache.counts.cut_off:
            yield SessionEvent(f"the reply was cut off at {self.max_new_tokens} tokens (max_new_tokens)")

    def _prompt(self, conversation: _Conversation, history: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return the messages for what the model still sees of a history."""
        return self.prompts.messages(history[conversation.seen_from :])

    def _cut(self, conversation: _Conversation, history: list[dict[str, str]], margin: int = 0):
        """Let the oldest exchanges go if a history and a margin do not fit, until a quarter of the context is free."""

        def length() -> int:
            return self.model.count(self._prompt(conversation, history), conversation.cache) + self._room

        if length() + margin <= self.context:
            return
        while conversation.seen_from + 2 < len(history) and length() > self.context * 3 // 4:
            conversation.seen_from += 2
            conversation.forgotten += 2

    def _check_length(self, message: str):
        if len(message) > LONGEST_MESSAGE:
            raise UserError(f"the message is too long: {len(message)} characters; {self.context} tokens is the context")
        alone = self._alone(message)
        if alone + self._room > self.context:
            raise UserError(
                f"the message is too long: {alone - self._fixed} tokens, and at most {self.context - self._room - self._fixed} "
                f"fit into the context of {self.context} beside the reply"
            )

    def _alone(self, message: str) -> int:
        """Return the tokens of a prompt that is nothing but one message."""
        return self.model.count(self.prompts.messages([{"role": "user", "content": message}]), self.model.new_cache())


def _timed(chunks: list[Chunk], stats: Stats, started: float) -> Iterator[Chunk]:
    """Yield chunks, and note when the first ones of their kind came."""
    for chunk in chunks:
        now = time.perf_counter() - started
        if stats.reaction is None and chunk.part == REACT and chunk.complete:
            stats.reaction = now
        if stats.first_word is None and chunk.part in SPOKEN and chunk.text.strip():
            stats.first_word = now
        yield chunk


def _times(stats: Stats) -> str:
    named = {"reaction": stats.reaction, "first word": stats.first_word, "whole": stats.whole}
    return ", ".join(f"{name} {value:.2f} s" for name, value in named.items() if value is not None)


def _rate(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f", {tokens_per_second:.1f} tokens/s"

"""A model behind a server with OpenAI's chat completions API, whose replies are streamed as server-sent events.

The server has the tokenizer and does its own caching. The length of a prompt is therefore estimated here, and the
chunks that the server sends are counted as tokens.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from empathy_trl.chat.reply import AnyEvent, Counts, Sampling, streamed
from empathy_trl.errors import JudgeFailed, UserError
from empathy_trl.models.api import (
    CUT_OFF,
    PREFIX,
    THINKS,
    ApiModel,
    as_argument,
    async_client,
    explain_refusal,
    first_words,
    no_connection,
    read_key,
    reasoning,
    request_body,
    withheld,
)
from empathy_trl.models.api import MODEL_KEY as KEY
from empathy_trl.tags import THOUGHTS, content_text
from empathy_trl.text import encodable

BYTES_PER_TOKEN = 3  # of UTF-8: on the safe side for English, and a token per character of Chinese, Japanese and Korean


@dataclass
class Requests:
    """What a session with a server keeps: the counts of its last turn."""

    counts: Counts = field(default_factory=Counts)


class ServedModel:
    """Talks to a model over the network, in place of a `LocalModel`.

    Args:
        name: of the model on the server.
        base_url: up to and without `/chat/completions`; None takes `$OPENAI_BASE_URL`, or OpenAI's own. The key is in
            `$OPENAI_API_KEY`; a server on this machine may do without.
        sampling: how replies are written.
        members: members of the request that replace those from `sampling`; None removes one.
        timeout: seconds without a byte from the server.

    Attributes:
        written: how messages show a setting, see `models.api.as_argument`.

    Raises:
        UserError: no name, no possible address, impossible members, or no key for a server elsewhere.
    """

    is_decoder = True
    positions = default_context = None  # no server says how many it has

    def __init__(
        self, name: str, base_url: str | None, sampling: Sampling, members: dict | None = None, timeout: float = 120.0
    ):
        address = ApiModel(name, base_url, sampling=members or {})  # checks and completes them
        self.name, self.base_url, self.members, self.written = name, address.base_url, address.sampling, as_argument
        self.sampling, self.timeout = sampling, timeout
        self._key = read_key(KEY, self.base_url)

    def new_cache(self) -> Requests:
        """Return what a new session keeps."""
        return Requests()

    def count(self, messages: list[dict], cache: Requests) -> int:
        """Return an estimate of a prompt's tokens."""
        return sum(4 + len(message["content"].encode(errors="replace")) // BYTES_PER_TOKEN for message in messages)

    def prefill(self, prompts, cache: Requests, stop) -> None:
        """Do nothing: a server is asked when there is something to ask."""

    def stream(
        self, messages: list[dict], cache: Requests, stop: threading.Event, max_new_tokens: int
    ) -> Iterator[str]:
        """Yield a reply as it is written; a stop, and leaving the iterator, close the connection.

        Raises:
            UserError: no connection, an answer that is no reply, or one that ends in the middle.
        """
        cache.counts = Counts(prefilled=self.count(messages, cache))
        defaults = {"stream": True, "max_tokens": max_new_tokens, **asdict(self.sampling)}
        request = request_body(self.name, messages, defaults, self.members)

        def write(put: Callable[[str], None], stopped: AnyEvent):
            def take(text: str):
                cache.counts.written += 1
                put(text)

            cache.counts.cut_off = asyncio.run(self._until_stopped(request, take, stopped)) == CUT_OFF

        return streamed(write, stop)

    async def _until_stopped(self, request: dict, put: Callable[[str], None], stopped: AnyEvent) -> str | None:
        reading = asyncio.create_task(self._read(request, put))
        while not (await asyncio.wait({reading}, timeout=0.05))[0]:
            if stopped.is_set():
                reading.cancel()  # closes the connection
        return None if reading.cancelled() else reading.result()

    async def _read(self, request: dict, put: Callable[[str], None]) -> str:
        """Put what the server writes; returns why it ended."""
        import openai

        fixed = {name: request[name] for name in ("model", "messages", "stream")}
        # the client of openai does not know all the others
        settings = {name: value for name, value in request.items() if name not in fixed}
        try:
            async with (
                async_client(self.base_url, self._key, self.timeout) as client,
                await client.chat.completions.create(**fixed, extra_body=settings) as events,
            ):
                return await self._read_events(events, put)
        except JudgeFailed as error:  # of `async_client`
            raise self._error(str(error)) from error
        except openai.APITimeoutError as error:
            raise self._error(f"{self.base_url} was silent for {self.timeout:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if no_connection(error):
                raise self._error(f"no connection ({cause}). Is the server running at {self.base_url}?") from error
            raise self._error(f"broken connection ({type(cause).__name__}: {cause})") from error
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, error.response.text, request) from None  # it may repeat the key
        except openai.APIError as error:  # an event with an error
            raise self._error(f"{self.base_url} reports {self._words(json.dumps(error.body))}") from None

    async def _read_events(self, events, put: Callable[[str], None]) -> str:
        """Put the text of every event; UserError where one is malformed, or the last one is missing."""
        reason = event = None
        thinks = False
        try:
            async for event in events:
                if not event.choices:  # such as an event with the usage only
                    continue
                delta, why = event.choices[0].delta, event.choices[0].finish_reason
                text, thought = content_text(delta.content), reasoning(delta.model_extra or {})
                reason = why or reason
                if thought:
                    put(encodable(thought if thinks else THINKS + thought))
                    thinks = True
                if text:
                    put(encodable(THOUGHTS[THINKS] + text if thinks else text))
                    thinks = False
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # no JSON or UTF-8, or another layout
            shown = error.doc if isinstance(error, json.JSONDecodeError) else str(event)
            raise self._error(f"{self.base_url} sends a malformed event: {self._words(shown)}") from error
        if event is None:
            raise self._error(f"{self.base_url} sends no event stream; expected chat completions with stream: true")
        if reason is None:
            raise self._error(f"{self.base_url} ended the reply in the middle")
        if why := withheld(reason):
            raise self._error(f"{self.base_url} ended the reply in the middle ({why}: finish_reason {reason})")
        return reason

    def _refusal(self, status: int, text: str, request: dict) -> UserError:
        about = {"base_url": self.base_url, "key": self._key, "api_key_env": KEY}
        why = explain_refusal(status, text, request, **about, sampling=self.members, written=self.written)
        return self._error(why or f"{self.base_url} answers HTTP {status}: {self._words(text)}")

    def _error(self, message: str) -> UserError:
        return UserError(f"model {PREFIX}{self.name}: {message}")

    def _words(self, text: str) -> str:
        return first_words(text, self._key)

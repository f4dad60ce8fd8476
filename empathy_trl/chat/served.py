"""A model behind a server that speaks OpenAI's chat completions, its reply streamed as server-sent events.

The server has the tokenizer, and keeps what it computed of earlier turns in its own way. So the length of a prompt is
estimated here, and what a turn counts as tokens are the pieces the server sends.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import httpx

from empathy_trl.chat.reply import Counts, Either, Sampling, streamed
from empathy_trl.errors import UserError
from empathy_trl.models.api import KEY_REFUSED, NOT_THERE, PREFIX, ApiModel, first_words, on_this_machine, read_key
from empathy_trl.models.api import MODEL_KEY as KEY

CHARACTERS_PER_TOKEN = 3  # on the safe side for English
DATA = "data:"
DONE = "[DONE]"
LONGEST_LINE = 1_000_000  # bytes
CUT_OFF = "length"  # a reply's end, as OpenAI calls it


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
        timeout: seconds without a byte from the server.

    Raises:
        UserError: no name, no possible address, or no key for a server elsewhere.
    """

    is_decoder = True
    positions = None  # no server says how many it has

    def __init__(self, name: str, base_url: str | None, sampling: Sampling, timeout: float = 120.0):
        address = ApiModel(name, base_url)  # checks and completes them
        self.name, self.base_url = name, address.base_url
        self.sampling, self.timeout = sampling, timeout
        self._key = read_key(KEY, self.base_url)

    def new_cache(self) -> Requests:
        """Return what a new session keeps."""
        return Requests()

    def count(self, messages: list[dict], cache: Requests) -> int:
        """Return an estimate of a prompt's tokens."""
        return sum(4 + len(message["content"]) // CHARACTERS_PER_TOKEN for message in messages)

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
        request = {"model": self.name, "messages": messages, "stream": True, "max_tokens": max_new_tokens}
        request |= {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p}
        if self.sampling.seed is not None:
            request["seed"] = self.sampling.seed

        def write(put: Callable[[str], None], stopped: Either):
            def take(text: str):
                cache.counts.written += 1
                put(text)

            cache.counts.cut_off = asyncio.run(self._until_stopped(request, take, stopped)) == CUT_OFF

        return streamed(write, stop)

    async def _until_stopped(self, request: dict, put: Callable[[str], None], stopped: Either) -> str | None:
        reading = asyncio.create_task(self._read(request, put))
        while not (await asyncio.wait({reading}, timeout=0.05))[0]:
            if stopped.is_set():
                reading.cancel()  # closes the connection
        return None if reading.cancelled() else reading.result()

    async def _read(self, request: dict, put: Callable[[str], None]) -> str | None:
        """Put what the server writes; returns why it ended."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            async with (
                httpx.AsyncClient(
                    headers=headers, timeout=self.timeout, trust_env=not on_this_machine(self.base_url)
                ) as client,
                client.stream("POST", f"{self.base_url}/chat/completions", json=request) as response,
            ):
                if response.status_code != 200:
                    self._refuse(response.status_code, await _beginning(response))
                return await self._read_events(response, put)
        except httpx.ConnectError as error:
            raise self._error(f"no connection ({error}). Is the server running at {self.base_url}?") from error
        except httpx.TimeoutException as error:
            raise self._error(f"{self.base_url} was silent for {self.timeout:g} s") from error
        except httpx.RequestError as error:
            raise self._error(f"broken connection ({type(error).__name__}: {error})") from error

    async def _read_events(self, response: httpx.Response, put: Callable[[str], None]) -> str | None:
        """Put the text of every event; UserError where one is malformed, or the last one is missing."""
        reason = None
        async for line in self._lines(response):
            if line.startswith("{"):
                raise self._error(f"{self.base_url} sends no event stream, but {self._words(line)}")
            if not line.startswith(DATA):  # a comment, a blank line between events, a field without text
                continue
            data = line.removeprefix(DATA).strip()
            if data == DONE:
                return reason
            text, why = self._event(data)
            reason = why or reason
            if text:
                put(text)
        if reason is None:
            raise self._error(f"{self.base_url} ended the reply in the middle")
        return reason

    async def _lines(self, response: httpx.Response) -> AsyncIterator[str]:
        """Yield lines; httpx's own also end at characters that JSON leaves as they are, such as U+2028."""
        rest = b""
        async for chunk in response.aiter_bytes():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
            if len(rest) > LONGEST_LINE:
                raise self._error(f"{self.base_url} sends a line of more than {LONGEST_LINE} bytes")
        yield rest.decode(errors="replace")

    def _event(self, data: str) -> tuple[str, str | None]:
        """Return the text of an event, and why the reply ends with it, if it does."""
        try:
            content = json.loads(data)
            if isinstance(content, dict) and content.get("error"):
                raise self._error(f"{self.base_url} reports {self._words(json.dumps(content['error']))}")
            choices = content["choices"]
            if not choices:  # such as an event with the usage only
                return "", None
            text, reason = choices[0]["delta"].get("content"), choices[0].get("finish_reason")
        except UserError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._error(f"{self.base_url} sends a malformed event: {self._words(data)}") from error
        if not isinstance(text, str | None):
            raise self._error(f"{self.base_url} sends a malformed event: {self._words(data)}")
        # no halves of surrogate pairs, which nothing encodes
        return (text or "").encode(errors="replace").decode(), reason

    def _refuse(self, status: int, words: str):
        says = f"{self.base_url} answers HTTP {status}: {self._words(words)}"
        if status in KEY_REFUSED:
            problem = "refuses the key in" if self._key else "wants a key, and none is set in"
            raise self._error(f"the server {problem} ${KEY}. {says}")
        if status in NOT_THERE:
            raise self._error(
                f"no {self.name!r} at {self.base_url}/chat/completions; expected a model that the server lists under "
                f"{self.base_url}/models. {says}"
            )
        raise self._error(says)

    def _error(self, message: str) -> UserError:
        return UserError(f"--model {PREFIX}{self.name}: {message}")

    def _words(self, text: str) -> str:
        return first_words(text, self._key)


async def _beginning(response: httpx.Response) -> str:
    """Return up to 2000 bytes of an answer as text."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) >= 2000:
            break
    return body[:2000].decode(errors="replace")

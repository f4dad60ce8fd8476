"""Asking an OpenAI-compatible server, with patience: bounded concurrency, a time limit, retries that back off.

A question that fails is asked again, where that may help; what fails for all of them stops the run (see `errors`).

The waits are exponential with full jitter (Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog):
uniform between 0 and a bound that doubles, so that processes which failed together do not come back together. They are
drawn from the operating system, not from `random`, whose state belongs to the training.
"""

import asyncio
import json
import random
from collections.abc import Callable
from typing import TypeVar

import httpx

from empathy_trl.judge.errors import JudgeFailed, Unusable
from empathy_trl.judge.secret import first_words, on_this_machine, read_key
from empathy_trl.retry_after import retry_after

LONGEST_WAIT = 60.0  # seconds, whatever a server's Retry-After says
LARGEST_BODY = 1 << 20  # bytes; scores need some hundred
KEY_REFUSED = (401, 403)
NOT_THERE = (301, 302, 303, 307, 308, 404, 405)
BAD_REQUEST = (400, 422)
MAY_PASS = (408, 409, 425, 429)  # and every 5xx
FORMAT_WORDS = ("response_format", "json_schema", "structured output", "structured_output", "guided")

Answer = TypeVar("Answer")


class Client:
    """Asks one server, for as long as `async with` lasts.

    Args:
        base_url: up to and without `/chat/completions`.
        api_key_env: name of the environment variable with the API key, which is read now; None sends no key.
        timeout: seconds for one request, from connecting to the last byte.
        retries: how often a question is asked again.
        wait: bound of the first wait in seconds; it doubles.
        concurrency: how many requests may be under way.

    Raises:
        JudgeFailed: see `read_key`.
    """

    def __init__(
        self, base_url: str, api_key_env: str | None, timeout: float, retries: int, wait: float, concurrency: int
    ):
        self.base_url, self.api_key_env = base_url, api_key_env
        self.timeout, self.retries, self.wait = timeout, retries, wait
        self._key = read_key(api_key_env, base_url)
        self._slots = asyncio.Semaphore(concurrency)
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=None,  # ours is for the whole request, theirs for every single byte
            limits=httpx.Limits(max_connections=concurrency),
            trust_env=not on_this_machine(base_url),  # proxies
        )

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self._http.aclose()

    async def ask(self, request: dict, read: Callable[[str], Answer]) -> Answer:
        """Return what `read` makes of the answer's text.

        Args:
            request: the body, as OpenAI's chat completions take it.
            read: raises Unusable for an answer that it cannot use.

        Raises:
            Unusable: the last failure, after all retries.
            JudgeFailed: no question can be answered.
        """
        async with self._slots:
            for attempt in range(self.retries + 1):
                try:
                    return read(await self._answer(request))
                except Unusable as failure:
                    if attempt == self.retries or not failure.may_pass:
                        raise
                    backoff = random.SystemRandom().uniform(0, self.wait * 2**attempt)
                    pause = min(max(backoff, failure.wait), LONGEST_WAIT)
                await asyncio.sleep(pause)

    async def _answer(self, request: dict) -> str:
        """Send one request; returns the content of the answer's message."""
        try:
            async with (
                asyncio.timeout(self.timeout),
                self._http.stream("POST", f"{self.base_url}/chat/completions", json=request) as response,
            ):
                body = await read_bounded(response)
        except TimeoutError as error:
            raise Unusable("timeout", f"no answer within {self.timeout:g} s") from error
        except httpx.ConnectError as error:
            raise Unusable("no connection", self._words(str(error))) from error
        except httpx.RequestError as error:
            raise Unusable("broken connection", self._words(f"{type(error).__name__}: {error}")) from error
        words = self._words(body.decode(errors="replace"))
        if response.status_code != 200:
            self._refuse(response, words, request)
        return content(body, words)

    def _refuse(self, response: httpx.Response, words: str, request: dict):
        """Raise what an answer other than 200 amounts to."""
        status = response.status_code
        says = f"{self.base_url} answers HTTP {status}: {words}"
        if status in KEY_REFUSED:
            problem = f"the server refuses the key in ${self.api_key_env}"
            if not self._key:
                problem = "the server wants a key, and none is sent; expected the name of a variable that is set"
            raise JudgeFailed(f"api_key_env: {problem}. {says}")
        if status in NOT_THERE:
            raise JudgeFailed(
                f"model or base_url: no {request['model']!r} at {self.base_url}/chat/completions; expected a model that the "
                f"server lists under {self.base_url}/models. {says}"
            )
        if status in BAD_REQUEST and "response_format" in request and any(w in words.lower() for w in FORMAT_WORDS):
            raise JudgeFailed(
                "structured: true, but the server takes no JSON schema (response_format); set structured: false, which asks "
                f"for JSON in words only. {says}"
            )
        may_pass = status in MAY_PASS or status >= 500
        raise Unusable(f"HTTP {status}", words, may_pass, retry_after(response.headers))

    def _words(self, text: str) -> str:
        return first_words(text, self._key)


async def read_bounded(response: httpx.Response) -> bytes:
    """Return the body of an answer; Unusable if it is larger than any answer can be."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise Unusable("malformed answer", f"more than {LARGEST_BODY} bytes")
    return bytes(body)


def content(body: bytes, words: str) -> str:
    """Return the text of the first message in a chat completion; Unusable with `words` if there is none."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unusable("malformed answer", f"no chat completion: {words}") from error
    if not isinstance(text, str):
        raise Unusable("malformed answer", f"a message without text: {words}")
    return text

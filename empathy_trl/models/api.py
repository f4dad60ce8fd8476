"""Asking an OpenAI-compatible server, with patience: bounded concurrency, a time limit, retries that back off.

The requests are sent by OpenAI's own client. A question that fails is asked again, where that may help; what fails for
all of them stops the run (see `errors`).

The waits are exponential with full jitter (Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog):
uniform between 0 and a bound that doubles, so that processes which failed together do not come back together. They are
drawn from the operating system, not from `random`, whose state belongs to the training.

The questions of a whole batch, asked at the same time, and the point at which too many of them have failed.

Scores kept on disk: one small file per question, so that no question is paid for twice.

A file is named by the hash of the request without the server's address: messages (reply, rubric and scale are in them),
model and sampling settings. Files are written whole or not at all, so any number of processes, also on several machines
with a shared folder, may use one cache at a time. A file holds scores, no text of anybody's conversation.

The API key: it comes from the environment when it is used, and stays out of everything that is written down.

A recipe is saved beside the model and published with it. So it holds the name of an environment variable, and whatever
looks like a key in it is refused, without repeating it in the message.

A model behind a server that speaks OpenAI's chat completions, evaluated like one that is loaded.

Prompts and completions are the same; what needs the model itself (its probabilities, its tokens) is not to be had.

How long a server asks to wait before it is asked again.
"""

import asyncio
import email.utils
import hashlib
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from empathy_trl.errors import JudgeFailed, Unusable, UserError
from empathy_trl.io import write_text

LONGEST_WAIT = 60.0  # seconds, whatever a server's Retry-After says
LARGEST_BODY = 1 << 20  # bytes; scores need some hundred
KEY_REFUSED = (401, 403)
NOT_THERE = (301, 302, 303, 307, 308, 404, 405)
BAD_REQUEST = (400, 422)
RETRIES_TAKEN = "x-stainless-retry-count"  # header of a request: how often OpenAI's client has sent it before
FORMAT_WORDS = ("response_format", "json_schema", "structured output", "structured_output", "guided")

Answer = TypeVar("Answer")


def async_client(base_url: str, key: str | None, timeout: float, retries: int = 0, wait: float = 0.0, **http):
    """Return OpenAI's client for a server: it sends the key there and nowhere else, and none without one.

    Args:
        base_url: up to and without `/chat/completions`.
        key: the API key, None sends none.
        timeout: seconds without a byte from the server.
        retries: how often a request is sent again that did not get through.
        wait: bound of the first wait in seconds; it doubles.
        http: further settings of the HTTP client.
    """
    import openai  # takes a second

    class Patient(openai.AsyncOpenAI):
        """Waits as this module does; the usual client draws its waits from the random numbers of the training."""

        def _validate_headers(self, headers, custom_headers):
            if key:  # the usual client insists on one
                super()._validate_headers(headers, custom_headers)

        def _calculate_retry_timeout(self, remaining_retries, options, response_headers=None):
            usual = backoff(wait, options.get_max_retries(self.max_retries) - remaining_retries)
            return min(max(usual, retry_after(response_headers or {})), LONGEST_WAIT)

    return Patient(
        base_url=base_url,
        api_key=key or "none",
        default_headers=None if key else {"Authorization": openai.Omit()},
        timeout=timeout,
        max_retries=retries,
        http_client=openai.DefaultAsyncHttpxClient(
            follow_redirects=False,
            trust_env=not on_this_machine(base_url),  # proxies
            **http,
        ),
    )


def backoff(wait: float, attempt: int) -> float:
    """Return the seconds to wait after an attempt, which count from 0."""
    return random.SystemRandom().uniform(0, wait * 2**attempt)


def no_connection(error: Exception) -> bool:
    """Whether a failure of OpenAI's client means that nobody is at the address."""
    return type(error.__cause__).__name__ == "ConnectError"


class Client:
    """Asks one server, for as long as `async with` lasts.

    Args:
        base_url: up to and without `/chat/completions`.
        api_key_env: name of the environment variable with the API key, which is read now; None sends no key.
        timeout: seconds without a byte from the server.
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
        self._failed = None  # with what no question can be answered
        self._openai = async_client(base_url, self._key, timeout, retries, wait)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self._openai.close()

    async def ask(self, request: dict, read: Callable[[str], Answer]) -> Answer:
        """Return what `read` makes of the answer's text.

        OpenAI's client sends a request again that did not get through; an answer of no use is for this method.

        Args:
            request: the body, as OpenAI's chat completions take it.
            read: raises Unusable for an answer that it cannot use.

        Raises:
            Unusable: the last failure, after all retries.
            JudgeFailed: no question can be answered.
        """
        async with self._slots:
            left = self.retries
            while True:
                if self._failed:  # those who wait for a slot wait no longer
                    raise self._failed
                response = await self._answer(request, left)
                left -= int(response.request.headers.get(RETRIES_TAKEN, 0))
                try:
                    return read(self._content(response))
                except Unusable as failure:
                    if left <= 0 or not failure.may_pass:
                        raise
                await asyncio.sleep(min(backoff(self.wait, self.retries - left), LONGEST_WAIT))
                left -= 1

    async def _answer(self, request: dict, retries: int):
        """Return the response to a request, sent again up to `retries` times."""
        import httpx2
        import openai

        try:
            return await self._openai.post(
                "/chat/completions", cast_to=httpx2.Response, body=request, options={"max_retries": retries}
            )
        except openai.APITimeoutError as error:
            raise Unusable("timeout", f"no answer within {self.timeout:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if no_connection(error):
                raise Unusable("no connection", self._words(str(cause))) from error
            raise Unusable("broken connection", self._words(f"{type(cause).__name__}: {cause}")) from error
        except openai.APIStatusError as error:
            failure = self._refusal(error.status_code, self._words(error.response.text), request)
            if isinstance(failure, JudgeFailed):
                self._failed = failure
            raise failure from None

    def _content(self, response) -> str:
        """Return the text of the message in a response."""
        words = self._words(response.text)
        if response.status_code != 200:
            raise Unusable(f"HTTP {response.status_code}", words, may_pass=False)
        if len(response.content) > LARGEST_BODY:
            raise Unusable("malformed answer", f"more than {LARGEST_BODY} bytes")
        return content(response.content, words)

    def _refusal(self, status: int, words: str, request: dict) -> Unusable | JudgeFailed:
        """Return what an answer amounts to that is none."""
        says = f"{self.base_url} answers HTTP {status}: {words}"
        if status in KEY_REFUSED:
            problem = f"the server refuses the key in ${self.api_key_env}"
            if not self._key:
                problem = "the server wants a key, and none is sent; expected the name of a variable that is set"
            return JudgeFailed(f"api_key_env: {problem}. {says}")
        if status in NOT_THERE:
            return JudgeFailed(
                f"model or base_url: no {request['model']!r} at {self.base_url}/chat/completions; expected a model that the "
                f"server lists under {self.base_url}/models. {says}"
            )
        if status in BAD_REQUEST and "response_format" in request and any(w in words.lower() for w in FORMAT_WORDS):
            return JudgeFailed(
                "structured: true, but the server takes no JSON schema (response_format); set structured: false, which asks "
                f"for JSON in words only. {says}"
            )
        return Unusable(f"HTTP {status}", words)

    def _words(self, text: str) -> str:
        return first_words(text, self._key)


def content(body: bytes, words: str) -> str:
    """Return the text of the first message in a chat completion; Unusable with `words` if there is none."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unusable("malformed answer", f"no chat completion: {words}") from error
    if not isinstance(text, str):
        raise Unusable("malformed answer", f"a message without text: {words}")
    return text


ADVICE = {
    "no connection": "Is the server running at base_url?",
    "broken connection": "Is the server still running? Its log may say more.",
    "timeout": "Raise timeout, or lower concurrency.",
    "HTTP 429": "Lower concurrency, or raise retries.",
    "HTTP 400": "Does the server take a schema (structured), all settings in `sampling`, and so long a conversation?",
    "not JSON": "Set structured: true, if the server can; raise sampling.max_tokens, if the answer is cut off.",
    "wrong schema": "Set structured: true, if the server can, or take a model that follows the format.",
    "out of range": "Take a scale of whole numbers, which a schema can list, or a model that follows the format.",
}


@dataclass
class Failures:
    """Counts the replies of a batch that stay without a score.

    Args:
        replies: in the whole batch.
        limit: the largest share of them that may fail.
        judge: `model at base_url`, for messages.
    """

    replies: int
    limit: float
    judge: str
    found: list[Unusable] = field(default_factory=list)

    def add(self, failure: Unusable, times: int):
        """Count a failure for `times` equal replies; JudgeFailed if the share is now above the limit."""
        self.found += [failure] * times
        if len(self.found) / self.replies > self.limit:
            most = Counter(failure.reason for failure in self.found).most_common(1)[0][0]
            advice = ADVICE.get(most, "The server's log may say more.")
            raise JudgeFailed(f"{self.summary()}. That is more than max_failure_share: {self.limit:g}. {advice}")

    def summary(self) -> str:
        """Say how many failed, why, and what happened first."""
        reasons = Counter(failure.reason for failure in self.found).most_common()
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons)
        first = self.found[0]
        return (
            f"{len(self.found)} of {self.replies} replies got no score from {self.judge} ({counts}). "
            f"The first: {first.reason}: {first.detail}"
        )


async def ask_all(
    client: Client, requests: Mapping[str, dict], times: Mapping[str, int], read: Callable, failures: Failures
) -> dict:
    """Return key -> what `read` makes of the answer, None for a question that stays without.

    Args:
        client: whom to ask; it bounds the concurrency.
        requests: key -> request.
        times: key -> for how many replies the question stands.
        read: called with key and answer; raises Unusable for an answer that is not as asked.
        failures: counts them.

    Raises:
        JudgeFailed: too many have failed, which is noticed without waiting for the others, or none can be answered.
    """

    async def one(key: str):
        try:
            return key, await client.ask(requests[key], lambda answer: read(key, answer)), None
        except Unusable as failure:
            return key, None, failure

    results = {}
    tasks = [asyncio.create_task(one(key)) for key in requests]
    try:
        for task in asyncio.as_completed(tasks):
            key, results[key], failure = await task
            if failure:
                failures.add(failure, times[key])
    finally:  # none goes on in the background
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return results


def default_folder() -> str:
    """Return `$EMPATHY_TRL_CACHE/judge`, or `~/.cache/empathy_trl/judge` without that variable."""
    return os.path.join(os.environ.get("EMPATHY_TRL_CACHE") or "~/.cache/empathy_trl", "judge")


def question_key(request: dict) -> str:
    """Return the hash of a request, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Cache:
    """Answers as text, by key.

    Args:
        folder: where they are, `~` allowed; None keeps nothing.

    Raises:
        UserError: the folder or a file in it cannot be read or written.
    """

    def __init__(self, folder: str | None):
        self.folder = None if folder is None else Path(folder).expanduser()

    def get(self, key: str) -> str | None:
        """Return what was put under a key; None if there is nothing."""
        if self.folder is None:
            return None
        try:
            return self._path(key).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refusal(error) from error

    def put(self, key: str, answer: str):
        """Keep an answer."""
        if self.folder is None:
            return
        try:
            write_text(self._path(key), answer)
        except OSError as error:
            raise self._refusal(error) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"  # no folder with a hundred thousand files

    def _refusal(self, error: OSError) -> UserError:
        return UserError(f"cache_dir: cannot use {self.folder}: {error.strerror}; set another folder, or null for none")


VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# narrower than `text.TOKEN`: what this finds is refused, and a name that merely looks like a key must not be
KEY = re.compile(r"\b(?:(?:sk|nvapi|xai)-|(?:hf|gsk|r8)_|AIza|eyJ|Bearer )[A-Za-z0-9_-]{20,}")


def refuse_keys(parameters: dict):
    """Raise UserError if a parameter's value looks like an API key, or `api_key_env` is not the name of a variable."""
    for name, value in parameters.items():
        if KEY.search(json.dumps(value, default=str)):
            raise UserError(
                f"{name}: holds what looks like an API key. A recipe is saved with the model: put the key into an "
                "environment variable and its NAME into api_key_env"
            )
    variable = parameters["api_key_env"]
    if variable is not None and not VARIABLE.fullmatch(variable):
        raise UserError(
            "api_key_env: expected the NAME of an environment variable (capitals, digits, _), such as OPENAI_API_KEY; what "
            "is given is not repeated here, in case it is the key itself"
        )


def checked_base_url(base_url: str) -> str:
    """Return a server's address without a slash at its end.

    Raises:
        UserError: not an address, one that may hold a secret (user, password, query), or one that goes too far.
    """
    try:
        url = urlsplit(base_url)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError("base_url: expected the address of a server, such as http://localhost:8000/v1")
    if "@" in url.netloc or url.query or url.fragment:
        raise UserError("base_url: expected no user, password, query or fragment; a key goes where api_key_env says")
    if url.path.rstrip("/").endswith("/chat/completions"):
        raise UserError(f"base_url: {base_url} goes too far; leave /chat/completions out")
    return base_url.rstrip("/")


def read_key(variable: str | None, base_url: str) -> str | None:
    """Return the API key in an environment variable, or None where none is to be sent.

    Raises:
        JudgeFailed: the variable is not set and the server is not on this machine, or its value cannot be in a header.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key:
        if variable and not on_this_machine(base_url):
            raise JudgeFailed(
                f"api_key_env: the environment variable {variable} is not set; export the API key for {base_url} in it, "
                "name another variable, or set null for a server that wants no key"
            )
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise JudgeFailed(f"api_key_env: the value of {variable} is no API key: it has blanks or unusual characters")
    return key


def on_this_machine(base_url: str) -> bool:
    """Whether a URL's host is a loopback address."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def first_words(text: str, key: str | None) -> str:
    """Return the beginning of what a server says, on one line, for a message; some servers repeat the key they were sent."""
    text = text.replace(key, "[key]") if key else text
    text = " ".join(text[:2000].split())
    return text if len(text) <= 300 else f"{text[:300]}…"


PREFIX = "openai:"  # of a model's name on the command line
OPENAI = "https://api.openai.com/v1"
MODEL_KEY = "OPENAI_API_KEY"
MODEL_ADVICE = {
    "no connection": "Is the server running at base_url?",
    "timeout": "Lower --batch_size, which is how many requests are under way.",
    "HTTP 429": "Lower --batch_size, which is how many requests are under way.",
    "HTTP 400": "Does the model take temperature: 0 and max_tokens, and so long a prompt?",
}


@dataclass
class ApiModel:
    """Completes chat prompts over the network, greedily.

    Args:
        name: of the model on the server.
        base_url: up to and without `/chat/completions`; None takes `$OPENAI_BASE_URL`, or OpenAI's own.
        timeout: seconds without a byte from the server.
        retries: how often a prompt is sent again that was not answered.
        wait: seconds; bound of the first wait before that, which doubles every time.

    The API key is in `$OPENAI_API_KEY`, which is read when the model is asked; a server on this machine may do without.

    Raises:
        UserError: no name, no possible address, or no key for a server elsewhere.
    """

    name: str
    base_url: str | None = None
    timeout: float = 120.0
    retries: int = 4
    wait: float = 1.0

    def __post_init__(self):
        self.base_url = checked_base_url(self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
        refuse_keys({"model": self.name, "base_url": self.base_url, "api_key_env": MODEL_KEY})
        if not self.name:
            raise UserError(f"--model {PREFIX}: expected the model's name on the server behind the colon")
        if not os.environ.get(MODEL_KEY, "").strip() and not on_this_machine(self.base_url):
            raise UserError(
                f"--model {PREFIX}{self.name}: the environment variable {MODEL_KEY} is not set; export the API key for {self.base_url} "
                "in it"
            )

    def complete(
        self,
        prompts: list[list[dict]],
        *,
        batch_size: int,
        max_new_tokens: int,
        progress: bool = True,
        rows: list[int] | None = None,
        done: Callable[[int, str], object] | None = None,
    ) -> list[str]:
        """Return one completion per prompt; equal prompts are sent once.

        Args:
            prompts: one list of chat messages (`{"role", "content"}`) per example.
            batch_size: requests under way at a time.
            max_new_tokens: a completion that has not ended by then is cut off.
            progress: show a progress bar on stderr.
            rows: number of every prompt; by default 0, 1, 2, …
            done: called with the number and the completion of a prompt as soon as it is there.

        Raises:
            UserError: a prompt stays without an answer after all retries, or none can be answered. Nothing stands in for
                an answer that is missing.
        """
        asked = [self._request(prompt, max_new_tokens) for prompt in prompts]
        keys = list(map(question_key, asked))
        requests = dict(zip(keys, asked, strict=True))
        rows_of = defaultdict(list)
        for row, key in zip(range(len(prompts)) if rows is None else rows, keys, strict=True):
            rows_of[key].append(row)
        with tqdm(total=len(prompts), desc="generate", disable=not progress) as bar:

            def read(key: str, completion: str) -> str:
                for row in rows_of[key]:
                    bar.update()
                    if done:
                        done(row, completion)
                return completion

            try:
                completions = asyncio.run(self._ask(requests, Counter(keys), batch_size, read))
            except JudgeFailed as error:  # the client's word for: no prompt can be answered
                raise UserError(f"--model {PREFIX}{self.name}: {error}") from error
        return [completions[key] for key in keys]

    def _request(self, prompt: list[dict], max_new_tokens: int) -> dict:
        return {"model": self.name, "messages": prompt, "temperature": 0, "max_tokens": max_new_tokens}

    async def _ask(self, requests: dict, times: Counter, concurrency: int, read: Callable) -> dict[str, str]:

        async with Client(self.base_url, MODEL_KEY, self.timeout, self.retries, self.wait, concurrency) as client:
            return await ask_all(client, requests, times, read, _NoFailures(self))


@dataclass
class _NoFailures:
    """Stops at the first prompt that stays without an answer: figures of the others would flatter or blame the model."""

    model: ApiModel

    def add(self, failure: Unusable, times: int):
        advice = MODEL_ADVICE.get(failure.reason, "The server's log may say more.")
        raise UserError(
            f"--model {PREFIX}{self.model.name}: {self.model.base_url} left a prompt without an answer ({failure}). {advice}"
        )


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` asks for, a number or a date (RFC 9110, 10.2.3); 0 without a usable one."""
    value = headers.get("retry-after", "").strip()
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # not a date, or one without a zone
        return 0.0

"""Models behind a server with OpenAI's chat completions API: judges, and models to evaluate.

* Settings: `checked_base_url` checks an address, and `read_key` reads the API key from the environment variable that
  the recipe names. A recipe is saved beside the model and published with it, so `refuse_keys` refuses everything that
  looks like a key, without repeating it.
* `request_body` builds the requests of judges, evaluations and chats: the user's `sampling` replaces the defaults.
  `explain_refusal` reads the answer of a server that refuses a request, and explains which setting to change and how. The
  setting is shown as the user writes it: in a recipe (`as_key`), in Python (`as_argument`) or as a flag (`as_flag`).
* `Client` sends one request with OpenAI's client. It limits concurrency and time. It retries after waits that grow
  exponentially with full jitter (Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog), so that
  processes that failed together do not retry together. An `InvalidAnswer` concerns one request; `JudgeFailed` concerns
  all of them (unknown model, rejected key) and stops the run.
* `ask_all` sends a batch, and `Failures` stops it when too many answers are missing.
* `Cache` keeps answers on disk, so that no request is paid for twice.
* `ApiModel` completes chat prompts for an evaluation, like a loaded model.
"""

import asyncio
import email.utils
import hashlib
import itertools
import json
import os
import random
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from empathy_trl.cli import Progress
from empathy_trl.errors import InvalidAnswer, JudgeFailed, UserError
from empathy_trl.io import network_hint, user_path, write_text
from empathy_trl.tags import THOUGHTS, content_text
from empathy_trl.text import encodable, mask

LONGEST_WAIT = 60.0  # seconds between two attempts
GIVE_UP = 120.0  # seconds; a server that asks for a longer wait is not asked again
KEY_REFUSED = (401, 403)
NOT_THERE = (301, 302, 303, 307, 308, 404, 405)
BAD_REQUEST = (400, 422)
CUT_OFF = "length"  # the `finish_reason` of an answer that has as many tokens as it may have
THINKS = "<think>"  # begins a thought that a server sends apart from the reply
# `finish_reason` of an answer that is withheld, or breaks off -> why; as OpenAI, Z.ai, vLLM, OpenRouter and DeepSeek write it
FILTER, BREAK = "filtered", "broken off"
WITHHELD = {"content_filter": FILTER, "sensitive": FILTER, "abort": BREAK, "error": BREAK, "network_error": BREAK}
WITHHELD |= {"insufficient_system_resource": BREAK}
MAY_PASS = (408, 409, 429)  # and all from 500 on
FORMAT_WORDS = ("response_format", "json_schema", "structured output", "structured_output", "guided")
TOO_LONG = re.compile(r"context (length|window|size)|too long|input tokens|prompt tokens", re.IGNORECASE)
TOO_LARGE = re.compile(r"too large|at most|maximum|less than|exceed|<=", re.IGNORECASE)
INSTEAD = re.compile(r"\buse\W+(\w+)\W+instead", re.IGNORECASE)
FILTERED = re.compile(r"content_filter|content management policy|data_inspection", re.IGNORECASE)
# not "exceeded your current quota" or "billing", which also occur in answers about temporary rate limits
NO_CREDIT = re.compile(r"insufficient[_ ](quota|credits?|balance|funds)", re.IGNORECASE)
# words of Gemma 2, llama.cpp and Google's own servers; "roles must alternate" is from Mistral's templates
NO_SYSTEM = re.compile(
    r"(system|developer) (role|message|prompt|instruction)s?\W+(\w+\W+){0,2}(not|un)|support\W+(\w+\W+)?system|roles must alternate",
    re.IGNORECASE,
)
FIXED = ("model", "messages", "n", "stream")  # members of a request that have one right value here

Answer = TypeVar("Answer")

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# narrower than `text.TOKEN`: a match is refused, and an ordinary name must not match
KEY = re.compile(r"\b(?:(?:sk|nvapi|xai)-|(?:hf|gsk|r8)_|AIza|eyJ|Bearer )[A-Za-z0-9_-]{20,}")


def refuse_keys(parameters: dict):
    """Raise UserError if a parameter's value looks like an API key, or `api_key_env` is not the name of a variable."""
    for name, value in parameters.items():
        if KEY.search(json.dumps(value, default=str)):
            raise UserError(
                f"{name}: contains something that looks like an API key. A recipe is saved with the model: put the key into an "
                "environment variable and its NAME into api_key_env"
            )
    variable = parameters["api_key_env"]
    if variable is not None and not VARIABLE.fullmatch(variable):
        raise UserError(
            "api_key_env: expected the NAME of an environment variable (capitals, digits, _), such as OPENAI_API_KEY; the "
            "given value is not shown, in case it is the key itself"
        )


def checked_base_url(base_url: str) -> str:
    """Return a server's address without a slash at its end.

    Raises:
        UserError: it is not an address, may hold a secret (user, password, query), or includes `/chat/completions`.
    """
    try:
        url = urlsplit(base_url)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError("base_url: expected the address of a server, such as http://localhost:8000/v1")
    if "@" in url.netloc or url.query or url.fragment:
        raise UserError(
            "base_url: expected no user, password, query or fragment; a key belongs in the variable that api_key_env names"
        )
    if url.path.rstrip("/").endswith("/chat/completions"):
        raise UserError(f"base_url: {base_url} must end before /chat/completions")
    return base_url.rstrip("/")


def read_key(variable: str | None, base_url: str) -> str | None:
    """Return the API key in an environment variable; None to send no key.

    Raises:
        JudgeFailed: the variable is not set and the server is not on this machine, or its value does not fit in a header.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key:
        if variable and not on_this_machine(base_url):
            raise JudgeFailed(
                f"api_key_env: the environment variable {variable} is not set; export the API key for {base_url} in it, "
                "name another variable, or set null for a server that needs no key"
            )
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise JudgeFailed(
            f"api_key_env: the value of {variable} is not an API key: it contains spaces or unusual characters"
        )
    return key


def on_this_machine(base_url: str) -> bool:
    """Whether a URL's host is a loopback address."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def async_client(base_url: str, key: str | None, timeout: float | None, **http):
    """Return OpenAI's client for one server, without retries.

    Args:
        base_url: up to and without `/chat/completions`.
        key: the API key; None sends none.
        timeout: seconds without a byte from the server; None for no limit.
        http: further settings of the HTTP client.

    Raises:
        JudgeFailed: proxies or certificates that the environment names cannot be used.
    """
    import openai  # takes a second

    try:
        http_client = openai.DefaultAsyncHttpxClient(
            auth=None if key else _without_key,
            follow_redirects=False,
            trust_env=not on_this_machine(base_url),  # proxies
            **http,
        )
    except (ValueError, ImportError, OSError) as error:
        raise JudgeFailed(f"{base_url} cannot be asked: {mask(str(error))}{network_hint(error)}") from error
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key or "none",  # the client insists on one
        timeout=timeout,
        max_retries=0,
        http_client=http_client,
    )


def _without_key(request):
    """Take the placeholder for a key out of a request."""
    del request.headers["Authorization"]
    return request


def backoff(wait: float, attempt: int) -> float:
    """Return a random wait in seconds from 0 to `wait` × 2^attempt; attempts count from 0.

    It is drawn from the operating system, because `random`'s state belongs to the training.
    """
    return random.SystemRandom().uniform(0, wait * 2**attempt)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` asks for, a number or a date (RFC 9110, 10.2.3); 0 without a usable one."""
    value = headers.get("retry-after", "").strip()
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # not a date, or one without a time zone
        return 0.0


def no_connection(error: Exception) -> bool:
    """Whether a failure of OpenAI's client means that no server listens at the address."""
    return type(error.__cause__).__name__ == "ConnectError"


def check_sampling(sampling: dict, fixed: Collection[str] = FIXED) -> None:
    """Raise UserError for members of a request that cannot be set, or cannot be sent as JSON."""
    if taken := [name for name in sampling if name in fixed]:
        raise UserError(f"sampling: {', '.join(taken)} cannot be set here; expected settings such as seed or top_p")
    try:
        json.dumps(sampling, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"sampling: cannot be sent as JSON: {error}") from error


def request_body(model: str, messages: list[dict], defaults: dict, sampling: dict) -> dict:
    """Return the body of a request: `sampling` over the defaults, where null leaves a member out."""
    settings = {name: value for name, value in (defaults | sampling).items() if value is not None}
    return {"model": model, "messages": messages} | settings


def as_key(name: str, *value) -> str:
    """Return a setting as a recipe writes it, `name: value`, or its name alone."""
    return f"{name}: {json.dumps(*value)}" if value else name


def as_argument(name: str, *value) -> str:
    """Return a setting as Python writes it, `name=value`, or its name alone."""
    return f"{name}={value[0]!r}" if value else name


def as_flag(name: str, *value) -> str:
    """Return a setting as a command line writes it, `--name value`, or its name alone."""
    return f"--{name} {shlex.quote(json.dumps(*value))}" if value else f"--{name}"


def explain_refusal(
    status: int,
    text: str,
    request: dict,
    *,
    base_url: str,
    key: str | None,
    api_key_env: str | None,
    sampling: dict,
    written: Callable[..., str],
) -> str | None:
    """Return why a server refuses all requests of this kind, and what to change; None if only this one may have failed.

    Args:
        status, text: status and text of the server's answer.
        request: the body that was sent.
        base_url, key, api_key_env: the server's address, the key that was sent, and the variable that holds the key.
        sampling: the settings of the request that come from the user.
        written: function that shows a setting as the user writes it, such as `as_key`.
    """
    answer = f"{base_url} answers HTTP {status}: {first_words(text, key)}"
    if status in KEY_REFUSED:
        if key:
            return f"the server refuses the key in ${api_key_env}. {answer}"
        where = f"set ${api_key_env}" if api_key_env else f"name the variable that holds it in {written('api_key_env')}"
        return f"the server requires a key, but none was sent; {where}. {answer}"
    if status == 402 or (status == 429 and NO_CREDIT.search(text)):
        return f"the account of the key has no credit left. {answer}"
    roles = {message["role"] for message in request["messages"]}
    if status in (*BAD_REQUEST, 500) and "system" in roles and NO_SYSTEM.search(text):
        return (
            f"the chat template of {request['model']} on the server refuses a system message, and these requests have one; start "
            f"the server with another template (vLLM and SGLang: --chat-template FILE), or use another model. {answer}"
        )
    settings = [name for name in request if name not in FIXED]
    if status in (*BAD_REQUEST, 404):
        if member := _refused_member(text, request, settings):
            change = _change(member, text, request, sampling, written)
            return f"the server does not accept {member}{_value(request[member])}; {change}. {answer}"
        if status == 404 and settings and "parameter" in text.lower():  # a gateway with no model that takes them all
            change = written("sampling", sampling | {settings[0]: None})
            return f"no server behind it accepts all of {', '.join(settings)}; remove one, for example with {change}. {answer}"
    if status in NOT_THERE:
        version = "" if urlsplit(base_url).path else ", and an address that ends in /v1, as most do"
        return (
            f"model or base_url: no {request['model']!r} at {base_url}/chat/completions; expected a model that the server "
            f"lists under {base_url}/models{version}. {answer}"
        )
    return None


def _refused_member(text: str, request: dict, settings: list[str]) -> str | None:
    """Return the member of a request that an answer rejects: the one in `param` or `loc`, else the first that it mentions."""
    about_length = TOO_LONG.search(text) is not None  # which may name max_tokens, but is about the conversation
    named = re.search(r'"param"\s*:\s*"(\w+)', text) or re.search(r"""loc\W+body\W+(\w+)""", text)
    if named and named[1] in request:
        return named[1] if named[1] in settings and not (about_length and named[1] == "max_tokens") else None
    if about_length:
        return None
    word = lambda name: rf"(?<![\w-]){re.escape(name)}(?![\w-])"
    words = re.sub(word(str(request["model"])), "", text)
    places = {name: re.search(word(name), words) for name in settings}
    if mentioned := [name for name in settings if places[name]]:
        return min(mentioned, key=lambda name: places[name].start())
    if "response_format" in settings and any(word in words.lower() for word in FORMAT_WORDS):
        return "response_format"
    return None


def _change(member: str, text: str, request: dict, sampling: dict, written: Callable[..., str]) -> str:
    """Return the setting that removes a member from the requests, or replaces it."""
    if member == "response_format" and member not in sampling:
        return f"{written('structured', False)} asks for JSON in words only"
    value, instead = request[member], INSTEAD.search(text)
    other = instead[1] if instead else "max_completion_tokens" if member == "max_tokens" else None
    if member == "max_tokens" and not instead and TOO_LARGE.search(text):
        return f"set a smaller number with {written('sampling', sampling | {member: value // 2})}"
    change = {member: None} | ({} if other is None or other in request else {other: value})
    return f"change the request with {written('sampling', sampling | change)} (null leaves a member out)"


def _value(value) -> str:
    return f": {json.dumps(value)}" if isinstance(value, bool | int | float | str) else ""


class Client:
    """Sends requests to one server, for as long as `async with` lasts.

    Args:
        base_url: up to and without `/chat/completions`.
        api_key_env: name of the environment variable with the API key, which is read now; None sends no key.
        timeout: seconds for one attempt, from connecting to the last byte.
        retries: how often a request is repeated.
        wait: bound of the first wait in seconds; it doubles with every attempt.
        concurrency: how many requests may be under way.
        sampling, written: the user's settings of the requests, and how messages show them, see `explain_refusal`.

    Raises:
        JudgeFailed: see `read_key`.
    """

    def __init__(
        self,
        base_url: str,
        api_key_env: str | None,
        timeout: float,
        retries: int,
        wait: float,
        concurrency: int,
        sampling: dict | None = None,
        written: Callable[..., str] = as_key,
    ):
        self.base_url, self.api_key_env = base_url, api_key_env
        self.timeout, self.retries, self.wait = timeout, retries, wait
        self.sampling, self.written = sampling or {}, written
        self._key = read_key(api_key_env, base_url)
        self._slots = asyncio.Semaphore(concurrency)
        self._fatal = None  # the failure that concerns all requests
        self._openai = async_client(base_url, self._key, timeout=None)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self._openai.close()

    async def ask(self, request: dict, read: Callable[[str, bool], Answer]) -> Answer:
        """Return what `read` makes of the answer's text, and of whether it was cut off.

        Args:
            request: the body, as OpenAI's chat completions take it.
            read: raises InvalidAnswer for an answer that it cannot use.

        Raises:
            InvalidAnswer: the last failure, after all retries.
            JudgeFailed: no request can be answered.
        """
        async with self._slots:
            for attempt in itertools.count():
                if self._fatal:  # requests that wait for a slot stop, too
                    raise self._fatal
                try:
                    text, cut_off = self._content(await self._send(request))
                    return _read(read, text, cut_off)
                except InvalidAnswer as failure:
                    if attempt >= self.retries or not failure.may_pass:
                        raise
                    wait = max(backoff(self.wait, attempt), failure.retry_after)
                await asyncio.sleep(min(wait, LONGEST_WAIT))

    async def _send(self, request: dict):
        """Return the response to one attempt."""
        import httpx2
        import openai

        try:
            async with asyncio.timeout(self.timeout):
                return await self._openai.post("/chat/completions", cast_to=httpx2.Response, body=request)
        except TimeoutError as error:
            raise InvalidAnswer("timeout", f"no answer within {self.timeout:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if no_connection(error):
                raise InvalidAnswer("no connection", self._excerpt(str(cause))) from error
            raise InvalidAnswer("broken connection", self._excerpt(f"{type(cause).__name__}: {cause}")) from error
        except openai.APIStatusError as error:
            failure = self._refusal(error.response, request)
            if isinstance(failure, JudgeFailed):
                self._fatal = failure
            raise failure from None  # the original may repeat the key

    def _content(self, response) -> tuple[str, bool]:
        """Return the text of the first message in a response, and whether it was cut off at its largest length."""
        excerpt = self._excerpt(response.text)
        if response.status_code != 200:
            raise InvalidAnswer(f"HTTP {response.status_code}", excerpt, may_pass=False)
        try:
            choice = json.loads(response.content)["choices"][0]
            content, ending = choice["message"]["content"], choice.get("finish_reason")
            text, cut_off = encodable(content_text(content)), ending == CUT_OFF
            if thought := encodable(reasoning(choice["message"])):
                text = f"{THINKS}{thought}" + (f"{THOUGHTS[THINKS]}{text}" if text else "")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidAnswer("malformed answer", f"no chat completion: {excerpt}") from error
        if why := withheld(ending):
            raise InvalidAnswer(why, f"finish_reason {ending}: {excerpt}", may_pass=why != FILTER)
        if content is None and not cut_off:  # an answer that is cut off during its thought has no content
            raise InvalidAnswer("malformed answer", f"a message without text: {excerpt}")
        return text, cut_off

    def _refusal(self, response, request: dict) -> InvalidAnswer | JudgeFailed:
        """Return the failure that a response with an error status stands for."""
        status = response.status_code
        about = {"base_url": self.base_url, "key": self._key, "api_key_env": self.api_key_env}
        about |= {"sampling": self.sampling, "written": self.written}
        if why := explain_refusal(status, response.text, request, **about):
            return JudgeFailed(why)
        if status in BAD_REQUEST and FILTERED.search(response.text):
            return InvalidAnswer(FILTER, self._excerpt(response.text), may_pass=False)
        wait = retry_after(response.headers)
        may_pass = (status in MAY_PASS or status >= 500) and wait <= GIVE_UP
        return InvalidAnswer(f"HTTP {status}", self._excerpt(response.text), may_pass, wait)

    def _excerpt(self, text: str) -> str:
        return first_words(text, self._key)


def reasoning(message: dict) -> str:
    """Return the thought that a server sends apart from the text of a message, or of a part of it; "" if there is none.

    llama.cpp, SGLang, DeepSeek and older versions of vLLM call it `reasoning_content`, vLLM and OpenRouter `reasoning`.
    """
    thoughts = (message.get(key) for key in ("reasoning_content", "reasoning"))
    return next((thought for thought in thoughts if thought and isinstance(thought, str)), "")


def _read(read: Callable[[str, bool], Answer], text: str, cut_off: bool) -> Answer:
    """Return `read(text)`; if this fails and the answer was cut off, the error gives that as the reason."""
    try:
        return read(text, cut_off)
    except InvalidAnswer as failure:
        if not cut_off:
            raise
        raise InvalidAnswer(
            "cut off", f"the answer reached max_tokens before it was complete: {failure.detail}"
        ) from failure


def first_words(text: str, key: str | None) -> str:
    """Return the beginning of a server's text on one line, for a message; some servers repeat the key they were sent."""
    text = text.replace(key, "[key]") if key else text
    text = " ".join(text[:2000].split())
    return text if len(text) <= 300 else f"{text[:300]}…"


def withheld(finish_reason: str | None) -> str | None:
    """Return why a server withheld a part of an answer, `FILTER` or `BREAK`; None for a complete answer."""
    return WITHHELD.get(str(finish_reason).partition(":")[0])  # Google writes "content_filter: SAFETY"


LOG = "The server's log may say more."
UNFILTERED = "Disable the server's content filter, or use another server."
REJECTED = "Does the server support schemas (structured), all settings in `sampling`, and such a long conversation?"
ADVICE = {
    "no connection": "Is the server running at base_url?",
    "broken connection": "Is the server still running? Its log may say more.",
    "timeout": "Raise timeout, or lower concurrency.",
    "HTTP 429": "Lower concurrency, or raise retries.",
    "HTTP 400": REJECTED,
    "HTTP 422": REJECTED,
    FILTER: UNFILTERED,
    "cut off": "Raise sampling.max_tokens, which also limits thoughts, or disable the judge's thoughts on the server.",
    "not JSON": "Set structured: true, if the server supports it, or use a model that follows the format.",
    "wrong schema": "Set structured: true, if the server supports it, or use a model that follows the format.",
    "out of range": "Use a scale of whole numbers, which a schema can list, or a model that follows the format.",
}


@dataclass
class Failures:
    """The replies of a batch that got no score, counted.

    Args:
        replies: in the whole batch.
        limit: the largest share of them that may fail.
        judge: `model at base_url`, for messages.
    """

    replies: int
    limit: float
    judge: str
    failures: list[InvalidAnswer] = field(default_factory=list)

    def add(self, failure: InvalidAnswer, times: int):
        """Count a failure for `times` equal replies; JudgeFailed if the share is now above the limit."""
        self.failures += [failure] * times
        if len(self.failures) / self.replies > self.limit:
            most = Counter(failure.reason for failure in self.failures).most_common(1)[0][0]
            advice = ADVICE.get(most, LOG)
            raise JudgeFailed(f"{self.summary()}. That is more than max_failure_share: {self.limit:g}. {advice}")

    def summary(self) -> str:
        """Say how many failed, why, and what happened first."""
        reasons = Counter(failure.reason for failure in self.failures).most_common()
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons)
        first = self.failures[0]
        return (
            f"{len(self.failures)} of {self.replies} replies got no score from {self.judge} ({counts}). "
            f"The first: {first.reason}: {first.detail}"
        )


async def ask_all(
    client: Client, requests: Mapping[str, dict], times: Mapping[str, int], read: Callable, failures: Failures
) -> dict:
    """Return key -> what `read` makes of the answer; None for a request without a usable answer.

    Args:
        client: limits the concurrency.
        requests: key -> request.
        times: key -> number of replies that share the request.
        read: called with key, answer and whether it was cut off; raises InvalidAnswer.
        failures: counts them; its `add` may stop the batch.

    Raises:
        JudgeFailed: too many requests have failed, or none can be answered; requests under way are cancelled.
    """

    async def ask_one(key: str):
        try:
            return key, await client.ask(requests[key], lambda *answer: read(key, *answer)), None
        except InvalidAnswer as failure:
            return key, None, failure

    results = {}
    tasks = [asyncio.create_task(ask_one(key)) for key in requests]
    try:
        for task in asyncio.as_completed(tasks):
            key, results[key], failure = await task
            if failure:
                failures.add(failure, times[key])
    finally:  # nothing continues in the background
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return results


def question_key(request: dict) -> str:
    """Return the hash of a request, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Cache:
    """Answers on disk as text, one file per request.

    A file is named by the hash of the request: messages (with reply, rubric and scale), model and sampling settings, not
    the address. It is written whole or not at all, so several processes and machines may share a folder. It holds scores,
    not the conversation.

    Args:
        folder: of the cache, `~` allowed; None keeps nothing.

    Raises:
        UserError: the folder or a file in it cannot be read or written.
    """

    def __init__(self, folder: str | None):
        self.folder = None if folder is None else user_path(folder)

    def get(self, key: str) -> str | None:
        """Return the answer under a key; None if there is none."""
        if self.folder is None:
            return None
        try:
            return self._path(key).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error

    def put(self, key: str, answer: str):
        """Keep an answer."""
        if self.folder is None:
            return
        try:
            write_text(self._path(key), answer)
        except OSError as error:
            raise self._unusable(error) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"  # no folder with a hundred thousand files

    def _unusable(self, error: OSError) -> UserError:
        return UserError(f"cache_dir: cannot use {self.folder}: {error.strerror}; set another folder, or null for none")


PREFIX = "openai:"  # of a model's name on the command line
OPENAI = "https://api.openai.com/v1"
MODEL_KEY = "OPENAI_API_KEY"


@dataclass
class ApiModel:
    """Completes chat prompts over the network, greedily unless `sampling` says otherwise.

    Args:
        name: of the model on the server.
        base_url: up to and without `/chat/completions`; None takes `$OPENAI_BASE_URL`, or OpenAI's own.
        timeout, retries, wait: see `Client`.
        sampling: members of the request that replace or extend `temperature: 0, max_tokens: <max_new_tokens>`; None removes
            one: `{"max_tokens": None, "max_completion_tokens": 2000}`.
        written: how messages show a setting, see `as_argument`.

    The API key is in `$OPENAI_API_KEY`, which is read when the model is asked; a server on this machine needs none.

    Raises:
        UserError: no name, no possible address, an impossible `sampling`, or no key for a server elsewhere.
    """

    name: str
    base_url: str | None = None
    timeout: float = 120.0
    retries: int = 4
    wait: float = 1.0
    _: KW_ONLY
    sampling: dict = field(default_factory=dict)
    written: Callable[..., str] = field(default=as_argument, repr=False)

    def __post_init__(self):
        self.base_url = checked_base_url(self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
        refuse_keys(
            {"model": self.name, "base_url": self.base_url, "sampling": self.sampling, "api_key_env": MODEL_KEY}
        )
        check_sampling(self.sampling)
        if not self.name:
            raise UserError(f"model {PREFIX}: expected the model's name on the server after the colon")
        if not os.environ.get(MODEL_KEY, "").strip() and not on_this_machine(self.base_url):
            raise UserError(
                f"model {PREFIX}{self.name}: the environment variable {MODEL_KEY} is not set; export the API key for {self.base_url} "
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
        done: Callable[[int, str, bool], object] | None = None,
    ) -> list[str]:
        """Return one completion per prompt; equal prompts are sent once.

        Args:
            prompts: one list of chat messages (`{"role", "content"}`) per example.
            batch_size: requests under way at a time.
            max_new_tokens: a completion that has not ended by then is cut off.
            progress: show a progress bar on stderr.
            rows: number of every prompt; by default 0, 1, 2, …
            done: called as soon as a completion is there, with the number of its prompt, its text, and whether it was cut off.

        Raises:
            UserError: a prompt has no answer after all retries, or none can be answered. A missing answer is never replaced.
        """
        bodies = [self._request(prompt, max_new_tokens) for prompt in prompts]
        keys = list(map(question_key, bodies))
        requests = dict(zip(keys, bodies, strict=True))
        rows_of = defaultdict(list)
        for row, key in zip(range(len(prompts)) if rows is None else rows, keys, strict=True):
            rows_of[key].append(row)
        with Progress("generate", len(prompts), "prompt", disable=not progress) as bar:

            def read(key: str, completion: str, cut_off: bool) -> str:
                for row in rows_of[key]:
                    bar.update()
                    if done:
                        done(row, completion, cut_off)
                return completion

            try:
                completions = asyncio.run(self._ask(requests, Counter(keys), batch_size, read))
            except JudgeFailed as error:  # no prompt can be answered
                raise UserError(f"model {PREFIX}{self.name}: {error}") from error
        return [completions[key] for key in keys]

    def settings(self, max_new_tokens: int) -> dict:
        """Return the members of every request besides model and messages."""
        return {name: value for name, value in self._request([], max_new_tokens).items() if name not in FIXED}

    def _request(self, prompt: list[dict], max_new_tokens: int) -> dict:
        return request_body(self.name, prompt, {"temperature": 0, "max_tokens": max_new_tokens}, self.sampling)

    async def _ask(self, requests: dict, times: Counter, concurrency: int, read: Callable) -> dict[str, str]:
        settings = (self.base_url, MODEL_KEY, self.timeout, self.retries, self.wait, concurrency)
        async with Client(*settings, self.sampling, self.written) as client:
            return await ask_all(client, requests, times, read, _StopAtFirst(self))


@dataclass
class _StopAtFirst:
    """Stops at the first prompt without an answer: figures of the other prompts alone would mislead."""

    model: ApiModel

    def add(self, failure: InvalidAnswer, times: int):
        lower = f"Lower {self.model.written('batch_size')}, the number of concurrent requests."
        advice = {
            "no connection": "Is the server running at base_url?",
            "timeout": lower,
            "HTTP 429": lower,
            FILTER: UNFILTERED,
            "HTTP 400": "Is the prompt too long for the model, or does it not support a setting of the request? "
            f"{self.model.written('sampling', {'temperature': None})} leaves one out.",
        }
        raise UserError(
            f"model {PREFIX}{self.model.name}: {self.model.base_url} left a prompt without an answer ({failure}). "
            f"{advice.get(failure.reason, advice['HTTP 400'] if failure.reason == 'HTTP 422' else LOG)}"
        )

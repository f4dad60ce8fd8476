"""Asking the Hub with patience, and saying in words what went wrong in the end.

huggingface_hub repeats some requests by itself, five times each: asking how a file goes up, and the files that are not in
git. The others (who am I, is it there, make it, commit) it sends once. Those are repeated here, and a server that asks for a
longer wait than anybody would sit through is not waited for, whoever asks.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from unittest.mock import patch

import httpx
from huggingface_hub import close_session, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import _http, hf_raise_for_status, parse_ratelimit_headers

from empathy_trl.errors import UserError
from empathy_trl.models.api import retry_after
from empathy_trl.text import mask, masked_log

ATTEMPTS = 4
LONGEST_WAIT = 300.0  # seconds; after that many the Hub counts anew
SILENCE = 300.0  # seconds without a byte, after which a connection is given up; huggingface_hub would wait for ever
MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
CONFLICT = (409, 412)  # somebody else made the repository, or committed, at the same time
REPEATED_ALREADY = ("/preupload/", "/info/lfs/")
LOGIN = "run `hf auth login`, or set HF_TOKEN, with a token that may write (https://huggingface.co/settings/tokens)"

Answer = TypeVar("Answer")


@contextmanager
def hub_session() -> Iterator[None]:
    """Inside the block the Hub is asked with a limit on silence and on waits, and its log names no secrets."""
    if constants.is_offline_mode():
        raise OfflineModeIsEnabled
    usual = _http._GLOBAL_CLIENT_FACTORY  # whatever the user has set, such as a proxy
    close_session()
    try:
        with (
            patch.object(_http, "_GLOBAL_CLIENT_FACTORY", lambda: _limited(usual())),
            masked_log("huggingface_hub.utils._http"),
        ):
            yield
    finally:
        close_session()


def _limited(client: httpx.Client) -> httpx.Client:
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], _limit_silence],
        "response": [*hooks["response"], _refuse_long_wait],
    }
    return client


def _limit_silence(request: httpx.Request):
    """Not the client's own limit: huggingface_hub says "none" with many a request."""
    request.extensions["timeout"] = httpx.Timeout(SILENCE, connect=min(SILENCE, 30.0)).as_dict()


def _refuse_long_wait(response: httpx.Response):
    if response.status_code == 429 and _asked_wait(response.headers) > LONGEST_WAIT:
        response.read()
        hf_raise_for_status(response)


def patiently(ask: Callable[[], Answer], what: str) -> Answer:
    """Return what `ask` returns; what may pass is tried again, a conflict once.

    Args:
        ask: may be called several times.
        what: it is about, for the line that says what is waited for.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except (HfHubHTTPError, httpx.TransportError) as error:
            pause = _pause(error, attempt)
            if attempt == ATTEMPTS or pause is None:
                raise
            print(f"{what}: {reason(error)}; again in {pause:g} s", file=sys.stderr)
        time.sleep(pause)


def _pause(error: httpx.HTTPError, attempt: int) -> float | None:
    """Return the seconds to wait before the next attempt; None if there is none to be made."""
    if any(part in _path(error) for part in REPEATED_ALREADY):
        return None
    backoff = 2.0 ** (attempt - 1)
    if not isinstance(error, HfHubHTTPError):
        return backoff
    status = error.response.status_code
    if status in CONFLICT and attempt == 1:
        return backoff
    wait = _asked_wait(error.response.headers)
    return max(backoff, wait) if status in MAY_PASS and wait <= LONGEST_WAIT else None


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that a refusal asks for: by `RateLimit`, which the Hub sends, or by `Retry-After`; 0 without them."""
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else retry_after(headers)


def _path(error: httpx.HTTPError) -> str:
    request = (
        error.response.request if isinstance(error, HfHubHTTPError) else error._request
    )  # .request raises for None
    return request.url.path if request else ""


def failures() -> tuple[type[Exception], ...]:
    """Return what huggingface_hub raises, for an `except`; of a Hub that answers in HTML it is a `ValueError`."""
    return (httpx.HTTPError, OSError, RuntimeError, ValueError)


def reason(error: BaseException) -> str:
    """Return in a sentence, without secrets, why the Hub could not be asked or refused."""
    return mask(" ".join(_reason(error).split()))


def _reason(error: BaseException) -> str:
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # which file it was says little
        error = error.__cause__
    if isinstance(error, LocalTokenNotFoundError):
        return f"you are not logged in: {LOGIN}"
    if isinstance(error, UnicodeEncodeError):  # of a header; its own words show a part of the token
        return f"your token has characters that no token has: {LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE=1 forbids to ask the Hub; unset it"
    if isinstance(error, HfHubHTTPError):
        return _status(error.response, str(error.server_message or "")[:300])
    if isinstance(error, httpx.TimeoutException):
        return f"{constants.ENDPOINT} does not answer"
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return f"{constants.ENDPOINT} cannot be reached ({error})"
    if isinstance(error, httpx.HTTPError):
        return f"the connection to {constants.ENDPOINT} broke off ({type(error).__name__})"
    if isinstance(error, json.JSONDecodeError):
        return f"{constants.ENDPOINT} does not answer as the Hub does; a proxy may be in between"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {str(error)[:500]}"


def _status(response: httpx.Response, says: str) -> str:
    status = response.status_code
    said = f"HTTP {status}" + (f": {says}" if says else "")
    if status == 401:
        return f"the Hub does not accept your token, or there is none ({said}): {LOGIN}"
    if status == 403:
        return (
            f"no right to do this ({said}): the name before the / has to be yours or your organisation's, and the token has "
            f"to allow writing there; choose another repo_id, or {LOGIN}"
        )
    if status == 404:
        return f"not there, or not for you to see ({said}); if it is private, {LOGIN}"
    if status in CONFLICT:
        return f"somebody else changed it at the same time ({said})"
    if status == 429:
        wait = _asked_wait(response.headers)
        return f"too many requests ({said})" + (f"; the Hub asks to wait {wait:.0f} s" if wait else "")
    return f"the Hub is in trouble ({said})" if status >= 500 else f"the Hub refuses ({said})"

"""How long the client waits, how often it asks again, and what it says of a server that refuses."""

import asyncio

import pytest

from empathy_trl.errors import JudgeFailed, Unusable
from empathy_trl.models import api as client_module
from empathy_trl.models.api import LONGEST_WAIT, Client
from tests.models.scripted_server import CUT, HANG, ScriptedServer, answer, unused_address

REQUEST = {"model": "m", "messages": [], "response_format": {}}


def ask(base_url, request=REQUEST, read=str, api_key_env=None, **settings):
    settings = {"timeout": 5, "retries": 2, "wait": 0, "concurrency": 1, **settings}

    async def run():
        async with Client(base_url, api_key_env, **settings) as client:
            return await client.ask(request, read)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "trouble",
    [
        answer("", 429),
        answer("", 500),
        answer("", 503),
        answer("", 408),
        CUT,
        answer(b"<html>"),
        answer(b'{"choices": []}'),
        answer(b'{"error": {"message": "overloaded"}}'),
        answer(None),
        answer(b"\xff\xfe\xff"),
        answer(b"[" * 50_000),
    ],
    ids=str,
)
def test_what_may_pass_is_asked_again(trouble):
    with ScriptedServer([trouble, trouble, answer("fine")]) as server:
        assert ask(server.base_url) == "fine"
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2] == REQUEST


@pytest.mark.parametrize(
    ("trouble", "reason", "detail", "asked"),
    [
        (answer(b"slow down", 429), "HTTP 429", "slow down", 3),
        (answer(b"oops", 500), "HTTP 500", "oops", 3),
        (answer(b'{"error": "context length exceeded"}', 400), "HTTP 400", "context length", 1),
        (answer(b"too large", 413), "HTTP 413", "too large", 1),
        (answer(b"", 204), "HTTP 204", "HTTP 204", 1),
        (CUT, "broken connection", "RemoteProtocolError", 3),
        (answer(b"not json"), "malformed answer", "no chat completion: not json", 3),
        (answer(None), "malformed answer", "a message without text", 3),
        (answer(["5"]), "malformed answer", "a message without text", 3),
        (answer("x" * (1 << 21)), "malformed answer", "more than 1048576 bytes", 3),
        (answer(b"short", **{"Content-Encoding": "gzip"}), "broken connection", "DecodingError", 3),
    ],
    ids=str,
)
def test_what_stays_is_told_with_its_reason(trouble, reason, detail, asked):
    with ScriptedServer([trouble]) as server, pytest.raises(Unusable, match=detail) as caught:
        ask(server.base_url)
    assert caught.value.reason == reason
    assert len(server.requests) == asked


def test_nobody_there():
    with pytest.raises(Unusable) as caught:
        ask(unused_address(), retries=1)
    assert caught.value.reason == "no connection"


@pytest.mark.parametrize("script", [[HANG], [(200, {"Content-Length": "1000"}, b"{")]], ids=["silent", "stops halfway"])
def test_the_time_limit_is_for_the_whole_request(script):
    with ScriptedServer(script) as server, pytest.raises(Unusable, match="no answer within 0.1 s"):
        ask(server.base_url, timeout=0.1, retries=1)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (answer(b"no", 401), "api_key_env: the server wants a key, and none is sent"),
        (answer(b"no", 403), "api_key_env: the server wants a key"),
        (answer(b"no such model", 404), "model or base_url: no 'm' at http.*/models.*HTTP 404: no such model"),
        (answer(b"moved", 301, Location="http://127.0.0.1:1/"), "model or base_url: .*HTTP 301"),
        (answer(b"Unsupported: 'response_format'", 400), "structured: true, but .*set structured: false.*Unsupported"),
        (answer(b"unknown field json_schema", 422), "structured: true, but "),
    ],
)
def test_what_no_retry_can_mend_stops_at_once(refusal, message):
    with ScriptedServer([refusal]) as server, pytest.raises(JudgeFailed, match=message):
        ask(server.base_url)
    assert len(server.requests) == 1


def test_the_key_is_sent_and_never_said(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "s3cret-key")
    echo = answer(b"Incorrect API key provided: s3cret-key", 401)
    with ScriptedServer([echo]) as server, pytest.raises(JudgeFailed) as caught:
        ask(server.base_url, api_key_env="JUDGE_KEY")
    assert server.headers[0]["authorization"] == "Bearer s3cret-key"
    assert "the server refuses the key in $JUDGE_KEY" in str(caught.value)
    assert "Incorrect API key provided: [key]" in str(caught.value)


def test_no_key_no_header():
    with ScriptedServer([answer("fine")]) as server:
        ask(server.base_url)
    assert "authorization" not in server.headers[0]


@pytest.fixture
def pauses(monkeypatch):
    """The waits that were asked for; none takes any time."""
    import anyio

    found, usual = [], asyncio.sleep

    async def sleep(seconds):
        found.append(seconds)
        await usual(0)

    monkeypatch.setattr(client_module.asyncio, "sleep", sleep)  # before an unusable answer is asked for again
    monkeypatch.setattr(anyio, "sleep", sleep)  # OpenAI's client, before a request is sent again
    return found


@pytest.mark.parametrize("trouble", [answer("", 500), answer(None)], ids=["refused", "unusable"])
def test_waits_are_random_below_a_bound_that_doubles(pauses, trouble):
    with ScriptedServer([trouble]) as server:
        for _ in range(20):
            with pytest.raises(Unusable):
                ask(server.base_url, retries=3, wait=1.0)
    for bound, waits in zip((1, 2, 4), (pauses[0::3], pauses[1::3], pauses[2::3]), strict=True):
        assert 0 <= min(waits) < bound / 3 and bound / 2 < max(waits) <= bound
    assert len(set(pauses)) == 60


def test_all_kinds_of_trouble_share_the_retries(pauses):
    with ScriptedServer([answer("", 500), answer(None), answer("", 500)]) as server, pytest.raises(Unusable):
        ask(server.base_url, retries=3)
    assert len(server.requests) == 4


@pytest.mark.parametrize("asked, waited", [("2", 2.0), ("100", LONGEST_WAIT)])
def test_retry_after_is_honoured_up_to_a_minute(pauses, asked, waited):
    with ScriptedServer([answer("", 429, Retry_After=asked), answer("fine")]) as server:
        assert ask(server.base_url, wait=0.5) == "fine"
    assert pauses == [waited]


def test_a_server_that_wants_to_be_left_alone_for_a_day_is(pauses):
    with ScriptedServer([answer("", 429, Retry_After="86400")]) as server, pytest.raises(Unusable, match="HTTP 429"):
        ask(server.base_url)
    assert len(server.requests) == 1 and not pauses


def test_waits_do_not_touch_the_random_numbers_of_the_training(pauses):
    import random

    random.seed(3)
    before = random.getstate()
    with ScriptedServer([answer("", 500), answer("fine")]) as server:
        ask(server.base_url, wait=1.0)
    assert pauses and random.getstate() == before

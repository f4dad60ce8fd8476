"""A model behind a server: its reply as it comes, and one clear error for whatever goes wrong."""

import json
import re
import threading
import time

import pytest

from empathy_trl.chat.prompts import Prompts
from empathy_trl.chat.reply import Sampling
from empathy_trl.chat.served import ServedModel
from empathy_trl.chat.session import Session, Settings
from empathy_trl.errors import UserError
from tests.chat.streaming_server import DONE, StreamingServer, event
from tests.models.scripted_server import picky, unused_address

KEY = "s3cret-0123456789-key"
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def stream(base_url, stop=None, **settings):
    model = ServedModel("m", base_url, Sampling(temperature=0.5, top_p=0.8, seed=3), **settings)
    cache = model.new_cache()
    return model.stream(MESSAGES, cache, stop or threading.Event(), 30), cache


def test_a_reply_comes_as_it_is_written(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    seen = threading.Event()

    def script(request):
        yield "<react>*nods*"
        yield ""
        assert seen.wait(10)
        yield "</react> é🙂"

    with StreamingServer(script) as server:
        texts, cache = stream(server.base_url)
        assert next(texts) == "<react>*nods*"
        seen.set()
        assert list(texts) == ["</react> é🙂"]
    assert cache.counts.written == 2
    assert server.requests == [
        {
            "model": "m",
            "messages": MESSAGES,
            "stream": True,
            "max_tokens": 30,
            "temperature": 0.5,
            "top_p": 0.8,
            "seed": 3,
        }
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "steps",
    [
        [b": hello\n\n", event("Hi", "stop"), b'data: {"choices": []}\n\n', DONE],
        [
            b'event: x\nid: 1\ndata:{"choices":[{"delta":{"role":"assistant","content":null}}]}\r\n\r\n',
            event("Hi", "stop"),
            DONE,
        ],
        [event("Hi", "stop")],
        [event("Hi", "stop"), DONE, b"data: what comes then\n\n"],
    ],
)
def test_what_servers_differ_in(steps):
    with StreamingServer(lambda request: steps) as server:
        assert list(stream(server.base_url)[0]) == ["Hi"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a\u2028b\u0085c".encode(), "a\u2028b\u0085c"),  # lines end there, for Python
        (b"a\\ud800b", "ab"),
    ],
)
def test_characters_that_are_seldom(text, read):
    event_of_bytes = b'data: {"choices":[{"delta":{"content":"' + text + b'"},"finish_reason":"stop"}]}\n\n'
    with StreamingServer(lambda request: [event_of_bytes, DONE]) as server:
        assert list(stream(server.base_url)[0]) == [read]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_a_thought_may_come_apart_from_the_reply(key):
    chunks = [{"content": None, key: "Who"}, {key: "?"}, {"content": "", key: None}, {"content": "Hi"}, {key: 3}]
    steps = [json.dumps({"choices": [{"delta": chunk, "finish_reason": None}]}) for chunk in chunks]
    with StreamingServer(
        lambda request: [*(f"data: {step}\n\n".encode() for step in steps), event("", "stop")]
    ) as server:
        assert list(stream(server.base_url)[0]) == ["<think>Who", "?", "</think>Hi"]


@pytest.mark.parametrize(("reason", "cut_off"), [("length", True), ("stop", False)])
def test_a_reply_that_was_cut_off_is_noted(reason, cut_off):
    with StreamingServer(lambda request: [event("Hi", reason), DONE]) as server:
        texts, cache = stream(server.base_url)
        assert list(texts) == ["Hi"] and cache.counts.cut_off is cut_off


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, b"no " + KEY.encode()), r"the server refuses the key in \$OPENAI_API_KEY\..*HTTP 401: no \[key\]"),
        (
            (404, b"nope"),
            r"no 'm' at http://.*/chat/completions; expected a model that the server lists.*HTTP 404: nope",
        ),
        ((500, b"oops\n" * 2000), "answers HTTP 500: oops oops"),
        ([event("Hi"), b"data: {oops\n\n"], r"sends a malformed event: \{oops"),
        ([b"data: 3\n\n"], "sends a malformed event: 3"),
        ([b'data: {"choices": [{"delta": {"content": 3}}]}\n\n'], "sends a malformed event"),
        ([b'data: {"choices": [{}]}\n\n'], "sends a malformed event"),
        ([b'data: {"error": {"message": "too long"}}\n\n'], "reports .*too long"),
        ([event("Hi")], "ended the reply in the middle"),
        ([event("Hi", "abort"), DONE], r"ended the reply in the middle \(broken off: finish_reason abort\)"),
        ([event("Hi", "content_filter"), DONE], r"in the middle \(filtered: finish_reason content_filter\)"),
        ([b""], "sends no event stream"),
        ([b'data: {"choices": [{"delta": {"content": "a\xff"}}]}\n\n'], "sends a malformed event"),
        ([b'{"choices": [{"message": {"content": "Hi"}}]}'], "sends no event stream"),
    ],
)
def test_whatever_goes_wrong_is_an_error_never_an_empty_reply(monkeypatch, answer, message):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StreamingServer(lambda request: answer) as server, pytest.raises(UserError, match=message) as caught:
        list(stream(server.base_url)[0])
    assert str(caught.value).startswith("model openai:m: ") and KEY not in str(caught.value)


def test_a_key_that_is_wanted_and_not_there():
    with (
        StreamingServer(lambda request: (401, b"")) as server,
        pytest.raises(UserError, match="requires a key, but none was"),
    ):
        list(stream(server.base_url)[0])
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        ServedModel("m", "http://elsewhere.invalid/v1", Sampling())


@pytest.mark.faults
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    with pytest.raises(
        UserError, match="^model openai:m: http://far.invalid/v1 cannot be asked: .*variable .*ALL_PROXY"
    ):
        list(stream("http://far.invalid/v1")[0])


def test_nobody_there():
    with pytest.raises(UserError, match=r"no connection .*Is the server running at http"):
        list(stream(unused_address())[0])


def test_a_server_that_is_silent():
    def script(request):
        time.sleep(1)
        yield "late"

    with StreamingServer(script) as server, pytest.raises(UserError, match=r"was silent for 0\.2 s"):
        list(stream(server.base_url, timeout=0.2)[0])


@pytest.mark.faults
def test_a_server_that_refuses_a_setting_is_talked_to_without_it():
    members = {"max_tokens": None, "max_completion_tokens": 30}
    with StreamingServer(lambda request: refusal[::2] if (refusal := picky(request)) else ["Hi"]) as server:
        with pytest.raises(
            UserError, match=rf"^model openai:m: .* max_tokens: 30; .*{re.escape(f'sampling={members}')}"
        ):
            list(stream(server.base_url)[0])
        with pytest.raises(UserError, match=r"temperature: 0.5; .*'temperature': None}"):
            list(stream(server.base_url, members=members)[0])
        assert list(stream(server.base_url, members={**members, "temperature": None, "user": "me"})[0]) == ["Hi"]
    settings = {"stream": True, "top_p": 0.8, "seed": 3, "max_completion_tokens": 30, "user": "me"}
    assert server.requests[-1] == {"model": "m", "messages": MESSAGES, **settings}


@pytest.mark.parametrize("way", ["stop", "leave"])
def test_a_stop_and_leaving_close_the_connection(way):
    def script(request):
        while True:
            yield "word "
            time.sleep(0.01)

    stop = threading.Event()
    with StreamingServer(script) as server:
        texts, _ = stream(server.base_url, stop)
        assert next(texts) == "word "
        if way == "stop":
            stop.set()
            assert set(texts) <= {"word "}  # it ends
        else:
            texts.close()
        assert server.left.wait(5)


@pytest.mark.faults
def test_a_chat_in_chinese_stays_within_the_context_of_the_server():
    def script(request):  # about a token per character
        said = sum(len(each["content"]) for each in request["messages"])
        return ["好" * 20] if said <= 300 else (400, b'{"error": {"message": "the context length is 340 tokens"}}')

    with StreamingServer(script) as server:
        model = ServedModel("m", server.base_url, Sampling())
        session = Session(model, Prompts(), Settings(context=340, max_new_tokens=40))
        for _ in range(5):
            list(session.send("我今天很难过" * 20))
        with pytest.raises(UserError, match="the message is too long"):
            session.send("难" * 320 + "\ud83d")
    assert len(session.history) == 10 and len(server.requests[-1]["messages"]) < 9

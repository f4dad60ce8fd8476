"""Asking a server: retries, limits, keys that stay secret, a cache, and a model that is evaluated over the network."""

import asyncio
import multiprocessing
import random
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from empathy_trl.errors import InvalidAnswer, JudgeFailed, UserError
from empathy_trl.evaluation.generation import generate_shared
from empathy_trl.io import cache_folder
from empathy_trl.models import api
from empathy_trl.models.api import (
    LONGEST_WAIT,
    OPENAI,
    ApiModel,
    Cache,
    Client,
    as_flag,
    checked_base_url,
    explain_refusal,
    on_this_machine,
    question_key,
    read_key,
    refuse_keys,
    retry_after,
)
from empathy_trl.recipe.schema import Evaluation
from tests.models.scripted_server import CUT, HANG, ScriptedServer, answer, chat, picky, unused_address

REQUEST = {"model": "m", "messages": [], "response_format": {}}


def ask(base_url, request=REQUEST, read=lambda text, cut_off: text, api_key_env=None, **settings):
    settings = {"timeout": 5, "retries": 2, "wait": 0, "concurrency": 1, **settings}

    async def run():
        async with Client(base_url, api_key_env, **settings) as client:
            return await client.ask(request, read)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "trouble",
    [
        answer("", 503),
        answer("", 408),
        answer(b'{"choices": []}'),
        answer(b'{"error": {"message": "overloaded"}}'),
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
        (answer(b"", 204), "HTTP 204", "HTTP 204", 1),
        (CUT, "broken connection", "RemoteProtocolError", 3),
        (answer(b"<html>"), "malformed answer", "no chat completion: <html>", 3),
        (answer(None), "malformed answer", "a message without text", 3),
        (answer(["5"]), "malformed answer", "no chat completion", 3),
        (answer(b"short", **{"Content-Encoding": "gzip"}), "broken connection", "DecodingError", 3),
    ],
    ids=str,
)
def test_what_stays_is_told_with_its_reason(trouble, reason, detail, asked):
    with ScriptedServer([trouble]) as server, pytest.raises(InvalidAnswer, match=detail) as caught:
        ask(server.base_url)
    assert caught.value.reason == reason
    assert len(server.requests) == asked


@pytest.mark.faults
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (chat([{"type": "thinking"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (chat(None, "length"), ""),
        (chat("a", "length"), "a"),
        (chat("a", reasoning_content="b"), "<think>b</think>a"),
        (chat(None, "length", reasoning="b"), "<think>b"),
        (chat("a", reasoning=["b"], reasoning_content=None), "a"),
        (chat("a\ud83db"), "ab"),
    ],
    ids=[
        "parts",
        "nothing but a thought",
        "cut off",
        "thought",
        "half a thought",
        "no text",
        "half a character, which no file can hold",
    ],
)
def test_the_text_of_an_answer(body, text):
    with ScriptedServer([answer(body)]) as server:
        assert ask(server.base_url) == text


@pytest.mark.faults
@pytest.mark.parametrize(
    ("trouble", "reason", "asked"),
    [
        (answer(chat("I am so", "error")), "broken off", 3),
        (answer(chat("", "abort")), "broken off", 3),
        (answer(chat(None, "content_filter: SAFETY")), "filtered", 1),
        (answer(b'{"error": {"code": "content_filter", "param": "prompt"}}', 400), "filtered", 1),
    ],
    ids=str,
)
def test_an_answer_that_breaks_off_or_is_filtered_is_never_a_reply(trouble, reason, asked):
    with ScriptedServer([trouble]) as server, pytest.raises(InvalidAnswer) as caught:
        ask(server.base_url)
    assert (caught.value.reason, len(server.requests)) == (reason, asked)


@pytest.mark.faults
@pytest.mark.parametrize(("name", "value"), [("all_proxy", "socks://127.0.0.1:9/"), ("SSL_CERT_FILE", "/nowhere.pem")])
def test_a_network_setting_that_cannot_be_used_is_named(monkeypatch, name, value):
    for each in ("all_proxy", "ALL_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(JudgeFailed, match=f"^http://far.invalid/v1 cannot be asked: .*check the environment.*{name}"):
        api.async_client("http://far.invalid/v1", None, 1.0)
    api.async_client("http://127.0.0.1/v1", None, 1.0)  # asked directly


@pytest.mark.parametrize("script", [[HANG], [(200, {"Content-Length": "1000"}, b"{")]], ids=["silent", "stops halfway"])
def test_the_time_limit_ends_an_attempt(script):
    with ScriptedServer(script) as server, pytest.raises(InvalidAnswer, match="no answer within 0.5 s"):
        ask(server.base_url, timeout=0.5, retries=1)
    assert len(server.requests) == 2


def test_the_time_limit_is_for_the_whole_request():
    """A server that sends a byte now and then is never silent for long."""

    async def drip(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.05)

    async def run():
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with Client(base_url, None, timeout=0.3, retries=0, wait=0, concurrency=1) as client:
            await client.ask(REQUEST, lambda text, cut_off: text)

    with pytest.raises(InvalidAnswer, match="no answer within 0.3 s"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (answer(b"no", 401), "the server requires a key, but none was sent"),
        (answer(b"no such model", 404), "model or base_url: no 'm' at http.*/models.*HTTP 404: no such model"),
        (answer(b"moved", 301, Location="http://127.0.0.1:1/"), "model or base_url: .*HTTP 301"),
        (
            answer(b"Unsupported: 'response_format'", 400),
            "does not accept response_format; structured: false asks for JSON in words.*Unsupported",
        ),
        (answer(b"unknown field json_schema", 422), "structured: false asks"),
    ],
)
def test_what_no_retry_can_mend_stops_at_once(refusal, message):
    with ScriptedServer([refusal]) as server, pytest.raises(JudgeFailed, match=message):
        ask(server.base_url)
    assert len(server.requests) == 1
    assert "authorization" not in server.headers[0], "no key, no header"


SENT = {
    "model": "gpt-seed",
    "messages": [{"role": "system", "content": "x"}],
    "temperature": 0,
    "max_tokens": 300,
    "top_p": 0.9,
    "response_format": {},
}
RENAMED = """{"top_p": 0.9, "max_tokens": null, "max_completion_tokens": 300}"""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("status", "text", "advice"),
    [
        (
            400,
            '{"error": {"message": "Unsupported. Use \'max_completion_tokens\' instead.", "param": "max_tokens"}}',
            RENAMED,
        ),
        (400, "Setting 'max_tokens' and another limit is not supported", RENAMED),
        (400, "temperature does not support 0, only the default (1) is", '{"top_p": 0.9, "temperature": null}'),
        (
            422,
            '{"detail": [{"loc": ["body", "top_p"], "msg": "extra_forbidden", "input": "temperature"}]}',
            '{"top_p": null}',
        ),
        (400, "{'loc': ('body', 'response_format'), 'msg': 'Extra inputs are not permitted'}", "--structured false"),
        (400, "Value error, guided decoding is off", "--structured false"),
        (
            400,
            "max_tokens is too large: at most 256",
            'a smaller number with --sampling \'{"top_p": 0.9, "max_tokens": 150}\'',
        ),
        (
            404,
            "No endpoints found that can handle the requested parameters.",
            "accepts all of temperature, max_tokens, top_p,",
        ),
        (404, "The model gpt-seed does not exist", "no 'gpt-seed' at URL/chat/completions"),
        (400, "max_tokens: 300 and 400 input tokens exceed the context length", None),  # about one conversation only
        (400, '{"error": {"message": "temperature", "param": "messages"}}', None),
        (500, "temperature", None),
        (400, '{"message": "System role not supported"}', "gpt-seed on the server refuses a system message"),
        (500, "Conversation roles must alternate user/assistant/user", "refuses a system message"),
        (400, "Developer instruction is not enabled for models/gemma-3", "--chat-template FILE"),
        (400, "The system message and the conversation are too long", None),
        (402, "Insufficient credits", "the account of the key has no credit left"),
        (429, '{"type": "insufficient_quota"}', "the account of the key has no credit left"),
        (429, "You exceeded your current quota, check your billing; retry in 30 s", None),
    ],
)
def test_a_refusal_names_the_setting_and_what_to_write_instead(status, text, advice):
    about = {"base_url": "URL", "key": None, "api_key_env": None, "sampling": {"top_p": 0.9}, "written": as_flag}
    explained = explain_refusal(status, text, SENT, **about)
    assert explained is None if advice is None else advice in explained and text in explained
    assert ", and an address that ends in /v1" in explain_refusal(404, "", SENT, **about | {"base_url": "http://h:80"})


@pytest.fixture
def pauses(monkeypatch):
    """The waits that were asked for; none takes any time."""
    waits, usual = [], asyncio.sleep

    async def sleep(seconds):
        waits.append(seconds)
        await usual(0)

    monkeypatch.setattr(api.asyncio, "sleep", sleep)
    return waits


def test_waits_are_random_below_a_bound_that_doubles_and_kinds_of_trouble_share_the_retries(pauses):
    random.seed(3)
    before = random.getstate()
    script = [answer("", 500), answer(None), answer("", 500), answer(None)]
    with ScriptedServer(script * 20) as server:
        for _ in range(20):
            with pytest.raises(InvalidAnswer):
                ask(server.base_url, retries=3, wait=1.0)
    assert len(server.requests) == 80
    for bound, waits in zip((1, 2, 4), (pauses[0::3], pauses[1::3], pauses[2::3]), strict=True):
        assert 0 <= min(waits) < bound / 3 and bound / 2 < max(waits) <= bound
    assert len(set(pauses)) == 60
    assert random.getstate() == before, "the random numbers of the training are not touched"


@pytest.mark.parametrize("seconds, waited", [("2", 2.0), ("100", LONGEST_WAIT)])
def test_retry_after_is_honoured_up_to_a_minute(pauses, seconds, waited):
    with ScriptedServer([answer("", 429, Retry_After=seconds), answer("fine")]) as server:
        assert ask(server.base_url, wait=0.5) == "fine"
    assert pauses == [waited]


def test_a_server_that_asks_for_a_day_is_not_asked_again(pauses):
    trouble = answer("", 429, Retry_After="86400")
    with ScriptedServer([trouble]) as server, pytest.raises(InvalidAnswer, match="HTTP 429"):
        ask(server.base_url)
    assert len(server.requests) == 1 and not pauses


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        (timedelta(seconds=30), 25, 30),
        (timedelta(days=-1), 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("", 0, 0),
    ],
)
def test_retry_after(value, low, high):
    if isinstance(value, timedelta):
        value = format_datetime(datetime.now(UTC) + value, usegmt=True)
    assert low <= retry_after({"retry-after": value}) <= high


FAKE_KEYS = ["sk-proj-abcdefghijklmnopqrstuvwx", "hf_abcdefghijklmnopqrstuvwx", "gsk_abcdefghijklmnopqrstuvwx"]


@pytest.mark.parametrize("key", [*FAKE_KEYS, "my secret", "0123456789abcdef", "", "lower_case"])
def test_a_key_in_place_of_a_variable_is_refused_and_not_repeated(key):
    with pytest.raises(UserError, match="api_key_env: ") as caught:
        refuse_keys({"api_key_env": key})
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("key", FAKE_KEYS)
def test_a_key_anywhere_else_is_refused_and_not_repeated(key):
    values = {"model": key, "sampling": {"api_key": key}, "rubric": {"warmth": f"It is warm. Bearer {key}"}}
    for name, value in values.items():
        with pytest.raises(UserError, match=f"{name}: contains something that looks like an API key") as caught:
            refuse_keys({name: value, "api_key_env": "OPENAI_API_KEY"})
        assert key not in str(caught.value)


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "hf-internal-testing/tiny-random-LlamaForCausalLM", "Qwen/Qwen3-8B"])
def test_names_of_models_are_no_keys(model):
    refuse_keys({"model": model, "api_key_env": None})


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("", "expected the address"),
        ("localhost:8000/v1", "expected the address"),
        ("http://host:99999/v1", "expected the address"),
        ("http://", "expected the address"),
        ("https://user:hunter2@example.com/v1", "no user, password"),
        ("https://example.com/v1?key=hunter2", "no user, password, query"),
        ("http://localhost:8000/v1/chat/completions", "must end before /chat/completions"),
    ],
)
def test_base_url(url, result):
    if result.startswith("http"):
        assert checked_base_url(url) == result
    else:
        with pytest.raises(UserError, match=result) as caught:
            checked_base_url(url)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:1/v1", True),
        ("http://127.0.0.2:1", True),
        ("http://[::1]:1", True),
        ("http://192.168.0.2:1", False),
        ("https://localhost.example.com", False),
    ],
)
def test_on_this_machine(url, local):
    assert on_this_machine(url) is local


REMOTE, LOCAL = "https://api.example.com/v1", "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("variable", "value", "url", "result"),
    [
        ("JUDGE_KEY", "s3cret", REMOTE, "s3cret"),
        ("JUDGE_KEY", " s3cret\n", LOCAL, "s3cret"),
        ("JUDGE_KEY", None, LOCAL, None),
        (None, None, REMOTE, None),
        ("JUDGE_KEY", None, REMOTE, f"variable JUDGE_KEY is not set; export the API key for {REMOTE}"),
        ("JUDGE_KEY", " ", REMOTE, f"variable JUDGE_KEY is not set; export the API key for {REMOTE}"),
        ("JUDGE_KEY", "two words", REMOTE, "the value of JUDGE_KEY is not an API key"),
        ("JUDGE_KEY", "schlüssel", REMOTE, "the value of JUDGE_KEY is not an API key"),
    ],
)
def test_the_key_comes_from_the_variable(monkeypatch, variable, value, url, result):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    if result in (None, "s3cret"):
        assert read_key(variable, url) == result
    else:
        with pytest.raises(JudgeFailed, match=result) as caught:
            read_key(variable, url)
        assert not (value or "").strip() or value not in str(caught.value)


KEY = question_key({"model": "m"})


def test_what_was_put_is_found_by_another_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Cache("~/answers").put(KEY, '{"empathy": 3.0}')
    assert Cache(str(tmp_path / "answers")).get(KEY) == '{"empathy": 3.0}'
    assert Cache("~/answers").get(question_key({"model": "n"})) is None
    Cache(None).put(KEY, "1")
    assert Cache(None).get(KEY) is None, "and nothing is kept without a folder"
    assert question_key({"a": 1, "b": 2}) == question_key({"b": 2, "a": 1}) != question_key({"a": 2, "b": 1})


@pytest.mark.parametrize("variable, folder", [("", "~/.cache/empathy_trl/judge"), ("/data/cache", "/data/cache/judge")])
def test_the_default_folder_follows_the_environment(monkeypatch, variable, folder):
    monkeypatch.setenv("EMPATHY_TRL_CACHE", variable)
    assert cache_folder("judge") == folder


@pytest.mark.parametrize("act", [lambda cache: cache.put(KEY, "1"), lambda cache: cache.get(KEY)], ids=["put", "get"])
def test_a_folder_that_cannot_be_used_is_an_error_that_names_it(tmp_path, act):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache_dir: cannot use .*file.*another folder, or null"):
        act(Cache(str(tmp_path / "file")))


def put_and_get(folder, number):
    for i in range(50):
        key = question_key({"question": i})
        Cache(folder).put(key, f"answer {i}")
        if Cache(folder).get(key) != f"answer {i}":
            raise SystemExit(1)


def test_several_processes_may_write_the_same_answers(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=put_and_get, args=(str(tmp_path), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 50, "no temporary file is left"


@pytest.fixture
def no_settings(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def prompts(*contents):
    return [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": content}] for content in contents]


def model(base_url, **settings):
    return ApiModel("m", base_url, **{"timeout": 5, "retries": 1, "wait": 0, **settings})


def echo(request):
    return answer(f"re: {request['messages'][-1]['content']}")


def complete(base_url, *contents, **settings):
    return model(base_url, **settings).complete(prompts(*contents), batch_size=3, max_new_tokens=7, progress=False)


def test_completions_belong_to_their_prompts_and_equal_prompts_are_sent_once(no_settings):
    contents = [f"turn {i % 7}" for i in range(20)]
    with ScriptedServer(echo) as server:
        assert complete(server.base_url, *contents) == [f"re: {content}" for content in contents]
        assert complete(server.base_url) == []
    assert len(server.requests) == 7 and server.most_at_once <= 3
    sent = next(request for request in server.requests if request["messages"] == prompts("turn 0")[0])
    assert sent == {"model": "m", "messages": prompts("turn 0")[0], "temperature": 0, "max_tokens": 7}


def test_generation_asks_it_in_place_of_a_loaded_model(no_settings):
    stage = SimpleNamespace(evaluation=Evaluation(max_new_tokens=5), seed=0)
    with ScriptedServer(echo) as server:
        assert generate_shared(model(server.base_url), None, prompts("a", "b"), 2, stage) == ["re: a", "re: b"]


def test_a_retried_prompt_gets_its_answer_even_an_empty_one(no_settings):
    with ScriptedServer([CUT, answer("")]) as server:
        assert complete(server.base_url, "a") == [""]


@pytest.mark.faults
def test_sampling_shapes_the_request_until_a_picky_server_takes_it(no_settings):
    sampling = {"reasoning_effort": "low"}
    with ScriptedServer(lambda request: picky(request) or echo(request)) as server:
        for advice in ({"max_tokens": None, "max_completion_tokens": 7}, {"temperature": None}):
            before, sampling = sampling, sampling | advice
            with pytest.raises(UserError, match=f"^model openai:m: .*{re.escape(f'sampling={sampling}')}"):
                complete(server.base_url, "a", sampling=before)
        assert complete(server.base_url, "a", sampling=sampling) == ["re: a"]
    sent = {"model": "m", "messages": prompts("a")[0], "reasoning_effort": "low", "max_completion_tokens": 7}
    assert server.requests[-1] == sent
    with pytest.raises(UserError, match="sampling: messages cannot be set here"):
        model(server.base_url, sampling={"messages": []})


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (HANG, r"left a prompt without an answer \(timeout: .*Lower batch_size"),
        (CUT, r"\(broken connection: .*The server's log may say more"),
        (answer(b"slow down", 429), r"\(HTTP 429: slow down\)\. Lower batch_size"),
        (
            answer(b"no max_tokens here", 400),
            "does not accept max_tokens: 7; change the request with sampling={'max_tokens': None, 'max_completion_tokens': 7}",
        ),
        (answer(None), r"\(malformed answer: a message without text"),
        (answer(b"", 404), r"openai:m: model or base_url: no 'm' at http://.*expected a model that the server lists"),
        (answer(b"", 401), r"model openai:m: the server requires a key, but none was sent"),
    ],
    ids=str,
)
def test_a_server_that_fails_is_an_error_never_an_empty_reply(no_settings, trouble, message):
    script = lambda request: trouble if request["messages"][-1]["content"] == "b" else echo(request)
    with ScriptedServer(script) as server, pytest.raises(UserError, match=message):
        complete(server.base_url, "a", "b", "c", timeout=0.3 if trouble == HANG else 5)


def test_a_model_whose_server_is_not_there(no_settings):
    with pytest.raises(UserError, match=r"no connection.*Is the server running at base_url\?"):
        complete(unused_address(), "a")


def test_the_address_and_the_key_come_from_the_environment(no_settings, monkeypatch):
    with pytest.raises(UserError, match=f"^model openai:m: .*_KEY is not set; export the API key for {OPENAI}"):
        ApiModel("m")
    key = "s3cret-0123456789-key"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert ApiModel("m").base_url == OPENAI
    with ScriptedServer([answer(f"you sent {key}".encode(), 401)]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/")
        with pytest.raises(UserError, match=r"refuses the key in \$OPENAI_API_KEY.*you sent \[key\]") as caught:
            complete(None, "a", retries=0)
    assert server.headers[0]["authorization"] == f"Bearer {key}"
    assert key not in str(caught.value) + repr(ApiModel("m"))


@pytest.mark.parametrize(
    ("name", "base_url", "message"),
    [
        ("", "http://localhost/v1", "model openai:: expected the model's name on the server after the colon"),
        ("m", "http://localhost/v1/chat/completions", "must end before"),
        ("sk-proj-abcdefghijklmnopqrst", "http://localhost/v1", "model: contains something that looks like an API key"),
    ],
)
def test_impossible_settings(no_settings, name, base_url, message):
    with pytest.raises(UserError, match=message):
        ApiModel(name, base_url)

"""A model behind a server: every prompt gets its completion, or the evaluation stops with a reason."""

from types import SimpleNamespace

import pytest

from empathy_trl.errors import UserError
from empathy_trl.evaluation.generation import generate_shared
from empathy_trl.models.api import OPENAI, ApiModel
from empathy_trl.recipe.schema import Evaluation
from tests.models.scripted_server import CUT, HANG, ScriptedServer, answer, unused_address

KEY = "s3cret-0123456789-key"


@pytest.fixture(autouse=True)
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


def test_completions_belong_to_their_prompts_and_equal_prompts_are_sent_once():
    contents = [f"turn {i % 7}" for i in range(20)]
    with ScriptedServer(echo) as server:
        assert complete(server.base_url, *contents) == [f"re: {content}" for content in contents]
    assert len(server.requests) == 7 and server.most_at_once <= 3
    sent = next(request for request in server.requests if request["messages"] == prompts("turn 0")[0])
    assert sent == {"model": "m", "messages": prompts("turn 0")[0], "temperature": 0, "max_tokens": 7}


def test_generation_asks_it_in_place_of_a_loaded_model():
    stage = SimpleNamespace(evaluation=Evaluation(max_new_tokens=5), seed=0)
    with ScriptedServer(echo) as server:
        assert generate_shared(model(server.base_url), None, prompts("a", "b"), 2, stage) == ["re: a", "re: b"]


def test_what_the_model_says_is_kept_as_it_is_even_nothing():
    with ScriptedServer([answer("")]) as server:
        assert complete(server.base_url, "a") == [""]


def test_no_prompts_ask_nobody():
    assert complete(unused_address()) == []


@pytest.mark.parametrize(
    "trouble", [CUT, answer(b"oops", 500), answer(b"slow down", 429, Retry_After="0"), answer(None)], ids=str
)
def test_what_passes_is_asked_again(trouble):
    with ScriptedServer([trouble, answer("fine")]) as server:
        assert complete(server.base_url, "a") == ["fine"]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (HANG, r"left a prompt without an answer \(timeout: .*Lower --batch_size"),
        (CUT, r"\(broken connection: .*The server's log may say more"),
        (answer(b"slow down", 429), r"\(HTTP 429: slow down\)\. Lower --batch_size"),
        (answer(b"no max_tokens here", 400), r"\(HTTP 400: no max_tokens here\)\. Does the model take temperature: 0"),
        (answer(None), r"\(malformed answer: a message without text"),
        (
            answer(b"", 404),
            r"--model openai:m: model or base_url: no 'm' at http://.*expected a model that the server lists",
        ),
        (answer(b"", 401), r"--model openai:m: api_key_env: the server wants a key, and none is sent"),
    ],
    ids=str,
)
def test_a_server_that_fails_is_an_error_never_an_empty_reply(trouble, message):
    script = lambda request: trouble if request["messages"][-1]["content"] == "b" else echo(request)
    with ScriptedServer(script) as server, pytest.raises(UserError, match=message):
        complete(server.base_url, "a", "b", "c", timeout=0.3 if trouble == HANG else 5)


def test_nobody_there():
    with pytest.raises(UserError, match=r"no connection.*Is the server running at base_url\?"):
        complete(unused_address(), "a")


def test_the_address_and_the_key_come_from_the_environment(monkeypatch):
    with pytest.raises(
        UserError, match=f"--model openai:m: .* OPENAI_API_KEY is not set; export the API key for {OPENAI}"
    ):
        ApiModel("m")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert ApiModel("m").base_url == OPENAI
    with ScriptedServer([answer(f"you sent {KEY}".encode(), 500)]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/")
        with pytest.raises(UserError, match=r"you sent \[key\]") as caught:
            complete(None, "a", retries=0)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value) + repr(ApiModel("m"))


@pytest.mark.parametrize(
    ("name", "base_url", "message"),
    [
        ("", "http://localhost/v1", "--model openai:: expected the model's name on the server behind the colon"),
        ("m", "localhost:8000", "base_url: expected the address of a server"),
        ("m", "http://localhost/v1/chat/completions", "goes too far"),
        ("sk-proj-abcdefghijklmnopqrst", "http://localhost/v1", "model: holds what looks like an API key"),
    ],
)
def test_impossible_settings(name, base_url, message):
    with pytest.raises(UserError, match=message):
        ApiModel(name, base_url)

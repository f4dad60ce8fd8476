"""Keys are refused where they do not belong, without being repeated, and read from where they do."""

import pytest

from empathy_trl.errors import JudgeFailed, UserError
from empathy_trl.models.api import checked_base_url, on_this_machine, read_key, refuse_keys

FAKE_KEYS = ["sk-proj-abcdefghijklmnopqrstuvwx", "hf_abcdefghijklmnopqrstuvwx", "gsk_abcdefghijklmnopqrstuvwx"]


@pytest.mark.parametrize("key", [*FAKE_KEYS, "my secret", "0123456789abcdef", "", "lower_case"])
def test_a_key_in_place_of_a_variable_is_refused_and_not_repeated(key):
    with pytest.raises(UserError, match="api_key_env: ") as caught:
        refuse_keys({"api_key_env": key})
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("key", FAKE_KEYS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", lambda key: key),
        ("sampling", lambda key: {"api_key": key}),
        ("rubric", lambda key: {"warmth": f"It is warm. Bearer {key}"}),
    ],
)
def test_a_key_anywhere_else_is_refused_and_not_repeated(key, name, value):
    with pytest.raises(UserError, match=f"{name}: holds what looks like an API key") as caught:
        refuse_keys({name: value(key), "api_key_env": "OPENAI_API_KEY"})
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
        ("ftp://example.com", "expected the address"),
        ("http://host:99999/v1", "expected the address"),
        ("http://", "expected the address"),
        ("https://user:hunter2@example.com/v1", "no user, password"),
        ("https://example.com/v1?key=hunter2", "no user, password, query"),
        ("http://localhost:8000/v1/chat/completions", "leave /chat/completions out"),
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
        ("https://api.example.com", False),
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
        ("JUDGE_KEY", "s3cret", LOCAL, "s3cret"),
        ("JUDGE_KEY", " s3cret\n", REMOTE, "s3cret"),
        ("JUDGE_KEY", None, LOCAL, None),
        (None, None, REMOTE, None),
    ],
)
def test_the_key_comes_from_the_variable(monkeypatch, variable, value, url, result):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    assert read_key(variable, url) == result


@pytest.mark.parametrize("value", [None, "", " "])
def test_a_remote_server_needs_the_variable(monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(JudgeFailed, match=f"variable JUDGE_KEY is not set; export the API key for {REMOTE}"):
        read_key("JUDGE_KEY", REMOTE)


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "schlüssel"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(JudgeFailed, match="the value of JUDGE_KEY is no API key") as caught:
        read_key("JUDGE_KEY", REMOTE)
    assert value not in str(caught.value)

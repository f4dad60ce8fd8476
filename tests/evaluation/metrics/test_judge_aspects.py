"""`judge_aspects` against a server that behaves and one that does not: a mean, a count, or a clear stop."""

import asyncio
import json

import pytest

from empathy_trl.errors import JudgeFailed, UserError
from empathy_trl.evaluation.metrics.judge_aspects.judge_aspects import ASPECTS
from tests.evaluation.metrics.loaded import load
from tests.models.scripted_server import ScriptedServer, answer, reply_of, unused_address

OWN = {"humour": "It is funny."}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMPATHY_TRL_CACHE", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def compute(server, replies, prompts=None, **settings):
    settings = {"model": "m", "wait": 0, "retries": 0, "timeout": 5, **settings}
    address = server if isinstance(server, str) else server.base_url
    return load("judge_aspects").compute(
        predictions=replies, prompts=prompts or ["p"] * len(replies), base_url=address, **settings
    )


def humour(table):
    """Return a script that gives the score of a reply, or garbage for one that is not in the table."""
    return lambda request: answer(
        json.dumps({"humour": table[reply_of(request)]}) if reply_of(request) in table else "?"
    )


def test_the_five_aspects_are_asked_from_0_to_9():
    scores = dict(zip(ASPECTS, (0, 3, 5, 7, 9), strict=True))
    with ScriptedServer([answer(json.dumps(scores))]) as server:
        assert compute(server, ["r"]) == scores | {"n": 1, "unanswered": 0}
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == list(ASPECTS)
    assert schema["properties"]["logic"]["enum"] == list(range(10))
    assert all(f"- {name}: {text}" in server.requests[0]["messages"][0]["content"] for name, text in ASPECTS.items())


def test_a_rubric_of_ones_own_and_a_whole_conversation():
    turns = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "bye"},
    ]
    with ScriptedServer(humour({"ha": 6, "ho": 9})) as server:
        found = compute(server, ["ha", "ho", ""], [turns, turns, turns], rubric=OWN, scores=True)
    assert found == {"humour": 5.0, "n": 3, "unanswered": 0, "scores": {"humour": [6.0, 9.0, 0.0]}}
    assert json.loads(server.requests[0]["messages"][1]["content"])["conversation"] == turns[1:]
    assert len(server.requests) == 2  # nobody is asked about an empty reply


def test_a_row_without_an_answer_is_counted_and_never_zero():
    with ScriptedServer(humour({"a": 4, "b": 8})) as server:
        found = compute(server, ["a", "b", "bad"], rubric=OWN, max_failure_share=0.4, scores=True)
        full = compute(server, ["a", "b", "bad"], rubric=OWN, max_failure_share=0.4, intervals=True)
    assert found == {"humour": 6.0, "n": 2, "unanswered": 1, "scores": {"humour": [4.0, 8.0, None]}}
    assert (full["humour"]["value"], full["humour"]["n"], full["unanswered"]) == (6.0, 2, 1)
    assert 4 <= full["humour"]["low"] <= full["humour"]["high"] <= 8


def test_no_answer_at_all_is_no_figure():
    with ScriptedServer(humour({})) as server:
        found = compute(server, ["bad"], rubric=OWN, max_failure_share=1.0)
    assert found == {"humour": None, "n": 0, "unanswered": 1}


def test_too_many_failures_stop_it():
    with (
        ScriptedServer(humour({"a": 4})) as server,
        pytest.raises(JudgeFailed, match=r"^1 of 2 replies got no score .*\(not JSON: 1\).*max_failure_share: 0\.2"),
    ):
        compute(server, ["a", "bad"], rubric=OWN)


def test_a_dead_judge_stops_it_whatever_may_fail():
    with pytest.raises(JudgeFailed, match=r"no connection: 1.*Is the server running at base_url\?"):
        compute(unused_address(), ["a"], max_failure_share=0.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, r"^model: expected the model's name on the server"),
        ({"rubric": ["logic"]}, r"^rubric: expected aspect -> what deserves a 9, got \['logic'\]$"),
        ({"rubric": {}}, r"^rubric: expected aspect -> what deserves a 9, got \{\}$"),
        ({"rubric": {"a b": "x"}}, r"^rubric: 'a b' is not a name for an aspect"),
        ({"api_key_env": "sk-0123456789abcdefghijklmn"}, r"^api_key_env: contains something that looks like an API key"),
        ({"max_failure_share": 2}, r"^max_failure_share: 2 must be between 0 and 1"),
    ],
)  # fmt: skip
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        compute("http://localhost:1/v1", ["a"], **settings)


def test_in_a_notebook_whose_loop_is_running():
    async def cell():
        with ScriptedServer(humour({"a": 4})) as server:
            return compute(server, ["a"], rubric=OWN)

    assert asyncio.run(cell())["humour"] == 4.0

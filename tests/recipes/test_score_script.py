"""recipes/score.py: one row of scores per row of the input, and no answer is asked for twice."""

import json
from pathlib import Path

import pytest

from tests.models.scripted_server import CUT, ScriptedServer, answer, picky, reply_of, unused_address
from tests.recipes.scripts import script

ASPECTS = ["empathy", "informativeness", "recommendation", "engagement", "overall"]
main = script("score")
OUTPUT = Path("out/scores.jsonl")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMPATHY_TRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def write_input(rows):
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def pairs(n):
    return [{"context": ["Hello.", "I am sad."], "response": f"reply {i}"} for i in range(n)]


def grades(request):
    number = sum(map(ord, reply_of(request)))
    return {name: 1 + (number + place) % 5 for place, name in enumerate(ASPECTS)}


def judge(request):
    return answer(json.dumps(grades(request)))


def command(base_url, *more):
    return [
        "--input",
        "in.jsonl",
        "--output",
        str(OUTPUT),
        "--base_url",
        base_url,
        "--model",
        "m",
        "--retries",
        "0",
        *more,
    ]


def scores():
    return [json.loads(line) for line in OUTPUT.read_text().split("\n") if line]


def asked(server):
    return sorted(reply_of(request) for request in server.requests)


def test_every_row_gets_the_judges_scores_in_the_order_of_the_input(capsys):
    rows = [*pairs(30), pairs(1)[0], {"context": "a", "response": " "}]
    write_input(rows)
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url, "--concurrency", "3")) == 0
        given = {reply_of(request): grades(request) for request in server.requests}
    expected = [given.get(row["response"], dict.fromkeys(ASPECTS, 1)) for row in rows]
    assert scores() == [
        {"index": index, **row, "ratings": ratings}
        for index, (row, ratings) in enumerate(zip(rows, expected, strict=True))
    ]
    assert asked(server) == sorted(f"reply {i}" for i in range(30)), "equal rows once, the empty one not at all"
    conversation = json.loads(server.requests[0]["messages"][1]["content"])["conversation"]
    assert [turn["role"] for turn in conversation] == ["assistant", "user"]
    assert [path.name for path in OUTPUT.parent.iterdir()] == ["scores.jsonl"]
    printed = capsys.readouterr()
    assert (
        "32 of 32 rows have scores" in printed.out and "1 with an empty response got the lowest scores" in printed.out
    )


def test_the_request_is_the_users_to_shape():
    write_input(pairs(2))
    with ScriptedServer([answer('{"overall": 3}')]) as server:
        flags = ("--aspects", "overall", "--sampling", '{"seed": 1}', "--structured", "false", "--limit", "1")
        assert main(command(server.base_url, *flags)) == 0
    assert [row["ratings"] for row in scores()] == [{"overall": 3}]
    assert server.requests[0]["seed"] == 1 and "response_format" not in server.requests[0]


@pytest.mark.faults
def test_a_server_that_refuses_the_request_is_answered_with_the_flag(capsys):
    write_input(pairs(2))
    with ScriptedServer(picky) as server:
        assert main(command(server.base_url)) == 2
    flag = """--sampling '{"max_tokens": null, "max_completion_tokens": 300}'"""
    assert flag in capsys.readouterr().err


def test_a_judge_that_dies_stops_the_run_and_the_next_run_asks_only_what_is_missing(capsys):
    write_input(pairs(40))
    OUTPUT.parent.mkdir()
    OUTPUT.write_text('{"index": 39, "conte')  # half a file, as version 0.1 left it
    with ScriptedServer(lambda request: CUT if len(server.requests) > 12 else judge(request)) as server:
        assert main(command(server.base_url, "--concurrency", "1")) == 2
        answered = {reply_of(request) for request in server.requests[:12]}
    error = capsys.readouterr().err
    assert "error: " in error and "broken connection" in error and "max_failure_share: 0.2" in error
    assert "rewards." not in error.split("error: ")[1], "there is no recipe here"
    assert len(server.requests) < 20, "the rest is not asked"
    assert OUTPUT.read_text() == '{"index": 39, "conte', "a file is written whole or not at all"
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url)) == 0
    assert set(asked(server)) == {f"reply {i}" for i in range(40)} - answered and len(server.requests) == 28
    assert [row["index"] for row in scores()] == list(range(40))
    assert main(command(server.base_url)) == 0, "all is in the cache; the server is gone"


def test_rows_without_a_valid_answer_are_counted_left_out_and_asked_again(capsys):
    write_input(pairs(10))
    with ScriptedServer(lambda request: answer("nope") if reply_of(request) == "reply 4" else judge(request)) as server:
        assert main(command(server.base_url)) == 0
    printed = capsys.readouterr().out
    assert "9 of 10 rows have scores" in printed and "1 without a valid answer were left out" in printed
    assert [row["index"] for row in scores()] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url)) == 0
    assert asked(server) == ["reply 4"] and [row["index"] for row in scores()] == list(range(10))


@pytest.mark.faults
def test_an_output_that_another_process_writes_is_refused_before_anything_is_asked(holder, capsys):
    write_input(pairs(1))
    other = holder("file", OUTPUT)
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url)) == 2
        assert not server.requests and f"{OUTPUT}: process {other.pid} on " in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch, capsys):
    write_input(pairs(1))

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("empathy_trl.commands.evaluate.score_file", interrupt)
    assert main(command("http://127.0.0.1:1/v1")) == 130
    assert "the same command continues with the answers in the judge's cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--input", "nowhere.jsonl"], "--input: nowhere.jsonl: no such file or folder"),
        (["--aspects", "empaty"], "aspects: unknown aspect empaty (choices: empathy, informativeness, recommendation, engagement, overall"),
        (["--base_url", "nowhere"], "base_url: expected the address of a server"),
        (["--base_url", "https://judge.invalid/v1"], "api_key_env: the environment variable OPENAI_API_KEY is not set"),
        (["--api_key_env", "sk-proj-abcdefghijklmnopqrst"], "api_key_env: contains something that looks like an API key"),
        (["--output", "."], "--output: . is a folder; expected a file, such as scores.jsonl"),
        (["--output", "in.jsonl/scores.jsonl"], "--output: cannot write in.jsonl/scores.jsonl"),
        (["--max_failure_share", "20"], "max_failure_share: 20.0 must be between 0 and 1"),
        ([], "Is the server running at base_url?"),
    ],
)  # fmt: skip
def test_what_the_user_can_fix_is_one_error_without_a_traceback(more, message, capsys):
    write_input(pairs(2))
    assert main(command(unused_address(), *more)) == 2
    error = capsys.readouterr().err
    assert "error: " in error and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "0"], "argument --limit: got '0', expected a whole number above 0"),
        (["--sampling", "seed=1"], "argument --sampling: got 'seed=1', expected a JSON object"),
        (["--structured", "no"], "argument --structured: invalid choice: 'no'"),
    ],
)
def test_wrong_flags_end_with_status_2(more, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command("u", *more))
    assert stop.value.code == 2 and message in capsys.readouterr().err

"""recipes/score.py: one row of scores per row of the input, whatever stops it, and nothing asked about twice."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.models.scripted_server import CUT, HANG, ScriptedServer, answer, reply_of, unused_address
from tests.recipes.scripts import ROOT, script

ASPECTS = ["empathy", "informativeness", "recommendation", "engagement", "overall"]
main = script("score")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMPATHY_TRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def pairs(n, different=None):
    return [{"context": ["Hello.", "I am sad."], "response": f"reply {i % (different or n)}"} for i in range(n)]


def write_input(rows):
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def grades(request):
    number = sum(map(ord, reply_of(request)))
    return {name: 1 + (number + place) % 5 for place, name in enumerate(ASPECTS)}


def judge(request):
    return answer(json.dumps(grades(request)))


def command(base_url, *more):
    return ["--input", "in.jsonl", "--output", "out/scores.jsonl", "--base_url", base_url, "--model", "m",
            "--retries", "0", "--cache_dir", "null", *more]  # fmt: skip


def scores():
    return [json.loads(line) for line in Path("out/scores.jsonl").read_text().split("\n") if line]


def change_rating(value):
    rows = scores()
    rows[1]["ratings"]["overall"] = value
    Path("out/scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def asked(*servers):
    return sorted(reply_of(request) for server in servers for request in server.requests)


def test_every_row_gets_its_scores_in_the_order_of_the_input(capsys):
    write_input([*pairs(30, different=20), {"context": "a", "response": " "}])
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url)) == 0
    rows = scores()
    assert [list(row) for row in rows] == [["index", "context", "response", "ratings"]] * 31
    assert [row["index"] for row in rows] == list(range(31))
    assert [row["response"] for row in rows] == [f"reply {i % 20}" for i in range(30)] + [" "]
    assert rows[0]["context"] == ["Hello.", "I am sad."]
    assert all(list(row["ratings"]) == ASPECTS for row in rows)
    assert rows[3]["ratings"] == rows[23]["ratings"] != rows[4]["ratings"]
    assert rows[30]["ratings"] == dict.fromkeys(ASPECTS, 1)
    assert asked(server) == sorted(f"reply {i}" for i in range(20)), "equal rows once, the empty one not at all"
    conversation = json.loads(server.requests[0]["messages"][1]["content"])["conversation"]
    assert [turn["role"] for turn in conversation] == ["assistant", "user"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["scores.jsonl", "scores.jsonl.judge.json"]
    told = capsys.readouterr()
    assert "31 of 31 rows have scores (0 had them before)" in told.out
    assert "1 with an empty response got the lowest scores, unasked" in told.out
    assert "31/31" in told.err, "the progress bar"


def test_scores_are_those_that_the_judge_gave():
    write_input(pairs(3))
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url, "--aspects", *ASPECTS)) == 0
        given = {reply_of(request): grades(request) for request in server.requests}
    assert {row["response"]: row["ratings"] for row in scores()} == given


@pytest.mark.parametrize("aspects", [["empathy"], ["engagement", "overall"]])
def test_aspects_may_be_chosen(aspects):
    write_input(pairs(1))
    with ScriptedServer([answer(json.dumps(dict.fromkeys(aspects, 3)))]) as server:
        assert (
            main(command(server.base_url, "--aspects", *aspects, "--sampling", '{"seed": 1}', "--structured", "false"))
            == 0
        )
    assert scores()[0]["ratings"] == dict.fromkeys(aspects, 3)
    assert server.requests[0]["seed"] == 1 and "response_format" not in server.requests[0]


def test_a_run_goes_on_and_asks_for_nothing_twice(capsys):
    write_input(pairs(30, different=25))
    with ScriptedServer(judge) as first:
        assert main(command(first.base_url, "--limit", "7")) == 0
        assert len(scores()) == len(first.requests) == 7
    with ScriptedServer(judge) as second:
        assert main(command(second.base_url, "--concurrency", "2")) == 0
        assert main(command(second.base_url)) == 0
    assert asked(first, second) == sorted(f"reply {i}" for i in range(25))
    assert [row["index"] for row in scores()] == list(range(30))
    assert "30 of 30 rows have scores (30 had them before)" in capsys.readouterr().out


def test_the_judges_cache_is_used():
    write_input(pairs(4))
    usual = [word for word in command("URL") if word not in ("--cache_dir", "null")]
    with ScriptedServer(judge) as server:
        assert main([word.replace("URL", server.base_url) for word in usual]) == 0
    Path("out/scores.jsonl").unlink()
    assert main([word.replace("URL", unused_address()) for word in usual]) == 0
    assert len(scores()) == 4


def test_killed_and_started_again_no_row_is_scored_twice():
    write_input(pairs(40))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with ScriptedServer(lambda request: HANG if len(server.requests) > 15 else judge(request)) as server:
        words = [sys.executable, str(ROOT / "recipes" / "score.py"), *command(server.base_url, "--concurrency", "3")]
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (Path("out/scores.jsonl").is_file() and len(scores()) == 15):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        answered = {reply_of(request) for request in server.requests[:15]}
    assert {row["response"] for row in scores()} == answered, "whole lines, all that was answered"
    with open("out/scores.jsonl", "a") as file:
        file.write('{"index": 39, "conte')  # as a full disk or a power cut leaves it
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url)) == 0
        assert not answered & set(asked(server)) and len(server.requests) == 25
    assert [row["index"] for row in scores()] == list(range(40))


def test_ctrl_c_ends_with_130_and_keeps_what_was_answered(capsys):
    write_input(pairs(6))
    with ScriptedServer(lambda request: HANG if len(server.requests) > 2 else judge(request)) as server:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        words = [sys.executable, str(ROOT / "recipes" / "score.py"), *command(server.base_url, "--concurrency", "1")]
        process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        while len(server.requests) < 3 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted; out/scores.jsonl has what was answered" in said and "Traceback" not in said
    assert [row["index"] for row in scores()] == [0, 1]


def test_rows_without_a_valid_answer_are_counted_left_out_and_tried_again(capsys):
    write_input(pairs(10))
    with ScriptedServer(lambda request: answer("nope") if reply_of(request) == "reply 4" else judge(request)) as server:
        assert main(command(server.base_url)) == 0
    told = capsys.readouterr()
    assert "9 of 10 rows have scores" in told.out and "1 without a valid answer were left out" in told.out
    assert [row["index"] for row in scores()] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url)) == 0
    assert asked(server) == ["reply 4"] and [row["index"] for row in scores()] == list(range(10))


def test_a_judge_that_dies_stops_the_run_after_everything_is_saved(capsys):
    write_input(pairs(40))
    with ScriptedServer(lambda request: CUT if len(server.requests) > 12 else judge(request)) as server:
        assert main(command(server.base_url, "--concurrency", "1")) == 2
    error = capsys.readouterr().err
    assert "error: " in error and "broken connection" in error and "max_failure_share: 0.2" in error
    assert "rewards." not in error.split("error: ")[1], "there is no recipe here"
    assert [row["index"] for row in scores()] == list(range(12))
    assert len(server.requests) < 20, "the rest is not asked"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: write_input([{"context": "b", "response": "reply 0"}, *pairs(3)[1:]]), "row 1: its context .* is not that"),
        (lambda: write_input([*pairs(2), {"context": ["Hello.", "I am sad."], "response": "x"}]), "row 3: its response 'reply 2'"),
        (lambda: write_input(pairs(2)), "row 3: its index is 2, the input has the rows 0 to 1"),
        (lambda: Path("out/scores.jsonl.judge.json").unlink(), "no scores.jsonl.judge.json says who scored them"),
        (lambda: Path("out/scores.jsonl.judge.json").write_text("{"), "judge.json, line 1: not valid JSON"),
        (lambda: Path("out/scores.jsonl.judge.json").write_text("[]"), "judge.json is \\[\\]; expected a judge's settings"),
        (lambda: change_rating(None), "row 2: overall is None; expected a number from 1 to 5"),
        (lambda: change_rating(True), "row 2: overall is True"),
        (lambda: change_rating(float("nan")), "row 2: overall is nan"),
        (lambda: change_rating(6), "row 2: overall is 6; expected a number from 1 to 5"),
        (lambda: Path("out/scores.jsonl").write_text("x\n{}\n"), "scores.jsonl, line 1: not valid JSON"),
        (lambda: Path("out/scores.jsonl").write_text("{}\n"), "row 1: expected index, context, response and ratings"),
    ],
)  # fmt: skip
def test_an_output_of_other_rows_is_refused_and_left_alone(change, message, capsys):
    write_input(pairs(3))
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url)) == 0
        change()
        before = Path("out/scores.jsonl").read_text()
        assert main(command(server.base_url)) == 2
        assert len(server.requests) == 3
    assert re.search(f"error: .*{message}", capsys.readouterr().err)
    assert Path("out/scores.jsonl").read_text() == before
    assert not list(Path("out").glob(".*")), "no lock is left behind"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "other"], "was scored with model 'm', this run has 'other'"),
        (["--aspects", "empathy"], "was scored with aspects"),
        (["--sampling", '{"seed": 3}'], "was scored with sampling {}, this run has {'seed': 3}"),
    ],
)
def test_another_judge_needs_another_output(more, message, capsys):
    write_input(pairs(2))
    with ScriptedServer(judge) as server:
        assert main(command(server.base_url)) == 0
        assert main(command(server.base_url, *more)) == 2
    error = capsys.readouterr().err
    assert message in error and "name another --output, or delete this one" in error


def test_two_runs_never_write_to_one_file(capsys):
    write_input(pairs(2))
    Path("out").mkdir()
    with open("out/.scores.jsonl.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(command(unused_address())) == 2
        assert Path("out/.scores.jsonl.lock").is_file()
    assert "error: --output: another run is writing to out/scores.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--input", "nowhere.jsonl"], "--input: nowhere.jsonl: no such file or folder"),
        (["--aspects", "empaty"], "aspects: unknown aspect empaty (choices: empathy, informativeness, recommendation, engagement, overall"),
        (["--base_url", "nowhere"], "base_url: expected the address of a server"),
        (["--base_url", "https://judge.invalid/v1"], "api_key_env: the environment variable OPENAI_API_KEY is not set"),
        (["--api_key_env", "sk-proj-abcdefghijklmnopqrst"], "api_key_env: holds what looks like an API key"),
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

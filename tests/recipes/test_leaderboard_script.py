"""recipes/leaderboard.py: from results to files, or one clear line."""

import csv
import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests.hub.leaderboard.results import evaluation, saved
from tests.recipes.scripts import script

leaderboard = script("leaderboard")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """outputs/ with three results, of which one is broken, in the working directory."""
    monkeypatch.chdir(tmp_path)
    saved(Path("outputs/run/sft"), evaluation("outputs/run/sft", 0.5))
    saved(Path("outputs/run/grpo"), evaluation("outputs/run/grpo", 0.9))
    Path("outputs/cut").mkdir()
    Path("outputs/cut/eval_test.json").write_text("{")
    return tmp_path


def test_files_and_table(results, capsys):
    assert leaderboard(["outputs"]) == 0
    told = capsys.readouterr()
    folder = Path("outputs/leaderboard")
    assert sorted(path.name for path in folder.iterdir()) == [
        "leaderboard.csv", "leaderboard.html", "leaderboard.md", "leaderboard.png",
    ]  # fmt: skip
    assert (
        "| 1 | run/grpo | 0.900 [0.850, 0.950] | 200 |" in told.out
        and "2 results in 1 table. 1 result could not be read." in told.out
    )
    assert "page:  outputs/leaderboard/leaderboard.html" in told.out
    assert "warning: outputs/cut/eval_test.json, line 1: not valid JSON" in told.err
    assert leaderboard(["outputs"]) == 0  # its own files are no results


@pytest.mark.faults
def test_a_folder_that_another_process_holds_is_refused(results, holder, capsys):
    other = holder("folder", "board")
    assert leaderboard(["outputs", "--output_dir", "board"]) == 2
    assert f"board: process {other.pid} on " in capsys.readouterr().err


def test_push_publishes_these_files_and_no_others(results, hub_server, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    board = Path("board dir")
    board.mkdir()
    board.joinpath("private.txt").write_text("mine")
    arguments = ["outputs/run", "--split", "test", "--output_dir", "board dir", "--push", "ann/board", "--private"]
    hub_server.fail("*", "ann/board", status=403, times=9)
    assert leaderboard(arguments) == 2
    error = capsys.readouterr().err
    command = "leaderboard outputs/run --split test --output_dir 'board dir' --push ann/board --private"
    assert "error: ann/board: not pushed: " in error and error.endswith(f"run: empathy-trl {command}\n")

    hub_server.faults.clear()
    assert leaderboard(arguments) == 0
    assert f"pushed to {hub_server.url}/datasets/ann/board" in capsys.readouterr().out
    assert HfApi().dataset_info("ann/board").private
    files = hub_server.files("ann/board", kind="datasets")
    ours = {path.name: path.read_bytes() for path in board.iterdir() if path.name not in ("private.txt", "README.md")}
    assert ours.items() <= files.items() and "private.txt" not in files
    assert files["README.md"].startswith(b"---\n") and files["leaderboard.png"].startswith(b"\x89PNG")
    assert not [name for name in files if str(results).encode() in files[name]]
    with board.joinpath("leaderboard.csv").open() as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"run/sft", "run/grpo"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected files or folders, or --hub AUTHOR_OR_TAG; got neither"),
        (["outputs", "--hub", "ann"], "expected files or folders, or --hub AUTHOR_OR_TAG; got both"),
        (["outputs", "--private"], "--private: is for --push USER/REPO"),
        (["outputs", "--push", "ann/x--y"], "--push: 'ann/x--y' is not a Hub id; expected USER/REPO"),
        (["nowhere"], "nowhere: no such file or folder"),
        (
            ["outputs", "--split", "valid"],
            "outputs: no results; looked for eval_valid.json, there and in all folders below",
        ),
        (["outputs/cut"], "outputs/cut: no results that can be read:"),
        (["outputs", "--output_dir", "outputs/cut/eval_test.json/x"], "--output_dir: cannot write to outputs/cut"),
        (["--hub", "ann"], "--hub ann: HF_HUB_OFFLINE=1 forbids requests to the Hub; unset it"),
    ],
)
def test_what_the_user_can_fix_is_one_error_without_a_traceback(results, capsys, arguments, message):
    assert leaderboard(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_a_result_without_metrics_is_named(results, capsys):
    without = {key: value for key, value in evaluation().items() if key != "metrics"}
    Path("outputs/cut/eval_test.json").write_text(json.dumps(without))
    assert leaderboard(["outputs"]) == 0
    assert "warning: outputs/cut/eval_test.json: is not an evaluation; expected kind, model" in capsys.readouterr().err

"""recipes/compare.py: from two evaluations to files and a table, and one clear line for what cannot be compared."""

import json
import shutil
from pathlib import Path

import pytest

from tests.recipes.scripts import ROOT, script

compare = script("compare")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with the outputs of a finished run."""
    shutil.copytree(ROOT / "tests" / "outputs_0_1" / "runs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)


def test_files_and_table(capsys):
    assert compare(["outputs/emotions/sft", "outputs/emotions/grpo"]) == 0
    told, folder = capsys.readouterr().out, Path("outputs/comparisons/sft_grpo")
    assert sorted(path.name for path in folder.iterdir()) == ["compare.json", "compare.md", "compare.png"]
    assert folder.joinpath("compare.md").read_text() in told and f"table: {folder / 'compare.md'}" in told
    found = json.loads(folder.joinpath("compare.json").read_text())["metrics"]
    assert found["accuracy"]["n"] == 12 and all(figure["p"] is not None for figure in found.values())


@pytest.mark.faults
def test_a_folder_that_another_process_holds_is_refused(capsys, holder):
    other = holder("folder", "outputs/comparisons/sft_grpo")
    assert compare(["outputs/emotions/sft", "outputs/emotions/grpo"]) == 2
    assert f"sft_grpo: process {other.pid} on " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replies/grpo"], "is an evaluation of emotions, outputs/replies/grpo one of replies; expected the same kind"),
        (["nowhere"], "nowhere/eval_test.json: no such file; evaluate the model first"),
        (["emotions/grpo", "--split", "valid"], "sft/eval_valid.json: no such file"),
        (["emotions/grpo", "--output_dir", "outputs/replies/report.md/x"], "--output_dir: cannot write to outputs/replies"),
    ],
)  # fmt: skip
def test_what_the_user_can_fix_is_one_error_without_a_traceback(capsys, arguments, message):
    assert compare(["outputs/emotions/sft", f"outputs/{arguments[0]}", *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error

"""Artefacts and pictures: exact formats, whole files only, errors that name file and line."""

import struct

import pytest

from empathy_trl import io as files
from empathy_trl.errors import UserError
from empathy_trl.evaluation import evaluate as artefacts
from empathy_trl.evaluation.plots import draw_confusion, draw_report

ROWS = [
    {"index": 4, "text": "Ünïcode\u2028and\nlines", "label": "sad", "prediction": None, "correct": False},
    {"index": 7, "text": "<b>", "label": "sad", "prediction": "sad", "correct": True},
]
CONFUSION = {
    "rows": ["sad", "angry"],
    "columns": ["sad", "angry", "invalid"],
    "counts": [[8, 1, 1], [0, 0, 0]],
}
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:-4] == b"IEND" and len(content) > 5000
    return struct.unpack(">II", content[16:24])


def test_what_is_written_is_read_back(tmp_path):
    folder = tmp_path / "new" / "folder"
    path = artefacts.write_eval(folder, "valid", {"accuracy": 0.5, "model": "é"})
    assert path == folder / "eval_valid.json" and "é" in path.read_text(encoding="utf-8")
    assert artefacts.read_eval(folder, "valid") == {"accuracy": 0.5, "model": "é"}

    path = artefacts.write_predictions(folder, "test", ROWS)
    assert path == folder / "predictions_test.jsonl" and path.read_text(encoding="utf-8").count("\n") == 2
    assert artefacts.read_predictions(folder, "test") == ROWS


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_no_json_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        artefacts.write_eval(tmp_path, "test", {"accuracy": value})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = files.write_text(tmp_path / "file.txt", "old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"eval_test\.json: no such file"):
        artefacts.read_eval(tmp_path, "test")
    artefacts.eval_path(tmp_path, "test").write_text('{\n"a": 1,\n')
    with pytest.raises(UserError, match=r"eval_test\.json, line 3: not valid JSON"):
        artefacts.read_eval(tmp_path, "test")
    artefacts.predictions_path(tmp_path, "test").write_text('{"index": 0}\n\n{"index": 1\n')
    with pytest.raises(UserError, match=r"predictions_test\.jsonl, line 3: not valid JSON"):
        artefacts.read_predictions(tmp_path, "test")


def test_confusion_picture(tmp_path):
    path = draw_confusion(tmp_path / "sub" / "confusion.png", CONFUSION, "a title\nof two lines")
    width, height = png_size(path)
    assert 500 < width < 1500 and 400 < height < 1500
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("rewards", [{}, {"grpo": [(1, 0.5)]}, {"grpo": [(step, step / 50) for step in range(50)]}])
def test_report_picture_is_wider_with_a_reward_curve(tmp_path, rewards):
    path = draw_report(
        tmp_path / "report.png",
        title="ed4_tiny",
        panels=[
            {
                "name": "accuracy",
                "figures": {"sft": FIGURE, "grpo": FIGURE | {"low": 0.5 + 1e-16}},
                "baselines": {"majority class": 0.25, "TF-IDF": 0.6},
            }
        ],
        rewards=rewards,
    )
    width, height = png_size(path)
    assert width == (2 if rewards else 1) * 825 and height == 660

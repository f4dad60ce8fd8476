"""Plots are whole PNG files of a readable size."""

import struct

import pytest

from empathy_trl.evaluation.plots import draw_confusion, draw_report, draw_training, smooth

CONFUSION = {"rows": ["sad", "angry"], "columns": ["sad", "angry", "invalid"], "counts": [[8, 1, 1], [0, 0, 0]]}
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:-4] == b"IEND" and len(content) > 5000
    return struct.unpack(">II", content[16:24])


def test_confusion_picture(tmp_path):
    path = draw_confusion(tmp_path / "sub" / "confusion.png", CONFUSION, "a title\nof two lines")
    width, height = png_size(path)
    assert 500 < width < 1500 and 400 < height < 1500
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.faults
def test_dollars_in_names_are_no_formula(tmp_path):
    png_size(draw_confusion(tmp_path / "x.png", CONFUSION | {"rows": ["$a_$", "$$"]}, "outputs/$x_{$"))


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


@pytest.mark.parametrize(
    ("rows", "pictures"),
    [
        ([{"step": 1, "loss": 2.0}], ["reward_curve.png"]),
        ([{"step": 1, "reward": 0.1, "rewards/format/mean": None}], ["reward_curve.png"]),
        ([{"step": 1, "reward": 0.1, "value_loss": 0.2}], ["critic_curves.png", "reward_curve.png"]),
    ],
)
def test_a_training_has_the_curves_that_it_logged(tmp_path, rows, pictures):
    draw_training(rows, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
    for name in pictures:
        png_size(tmp_path / name)


def test_the_reward_stands_above_a_held_out_figure_if_there_is_one(tmp_path):
    rows = [{"step": step, "reward": 0.1} for step in (1, 2)]
    figure = {"eval_accuracy": 0.5, "eval_accuracy_low": 0.4, "eval_accuracy_high": 0.6, "eval_n": 8}
    by_the_trainer = {"step": 2, "eval_accuracy": 0.5}  # has no interval
    heights = []
    for measured in ([], [by_the_trainer], [{"step": 2} | figure]):
        draw_training([*rows, *measured], tmp_path, ("eval_accuracy", "accuracy on valid"))
        heights.append(png_size(tmp_path / "reward_curve.png")[1])
    assert heights == [480, 480, 720]


@pytest.mark.parametrize(
    "values, expected", [([1.0], [1.0]), ([1, 2, 3], [1, 2, 3]), ([0.0] * 19 + [2.0], [0.0] * 19 + [1.0])]
)
def test_smooth_averages_a_trailing_tenth(values, expected):
    assert smooth(values) == pytest.approx(expected)

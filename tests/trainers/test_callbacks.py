"""What a run shows and leaves behind: metrics, pictures and samples."""

import logging
import warnings
from types import SimpleNamespace

import pytest

from empathy_trl.errors import UserError
from empathy_trl.trainers.callbacks import (
    MetricsLog,
    SamplePages,
    StageProgress,
    logged_rows,
    messages_above_progress,
    samples_page,
)


def state(step, max_steps=10):
    return SimpleNamespace(global_step=step, max_steps=max_steps, logging_steps=2, is_world_process_zero=True)


def test_the_line_of_a_stage_keeps_the_latest_figures_and_counts_the_steps_of_this_session(monkeypatch, capsys):
    clock = iter([0, 60, 90, 120]).__next__
    monkeypatch.setattr("empathy_trl.cli.time", SimpleNamespace(monotonic=clock))
    progress = StageProgress("grpo", ("eval_accuracy", "accuracy on valid"))
    args = SimpleNamespace(disable_tqdm=True, logging_strategy="steps")
    progress.on_train_begin(args, state(4), None)  # a resume
    for step, logs in [
        (5, {"loss": 0.1, "explained_variance": 1.0, "kl": None, "grad_norm": 2.0}),
        (6, {"eval_accuracy": 0.61}),  # before the training's row of the step, which has a line with both
        (6, {"loss": 0.1, "reward": 1.21456}),
        (7, {"eval_accuracy": 0.65}),
        (8, {"train_runtime": 3.0}),
    ]:
        progress.on_log(args, state(step), None, logs=logs)
        progress.on_step_end(args, state(step), None)
    progress.on_train_end(args, state(8), None)
    assert capsys.readouterr().err.splitlines() == [
        "[grpo] step 5 of 10, loss 0.1, EV 1, 5 min left",
        "[grpo] step 6 of 10, reward 1.21, EV 1, accuracy on valid 0.61, 3 min left",
        "[grpo] step 7 of 10, reward 1.21, EV 1, accuracy on valid 0.65, 2 min left",
    ]


def test_messages_stand_above_the_bar(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    args = SimpleNamespace(disable_tqdm=False)
    with messages_above_progress():
        progress = StageProgress("grpo", ("eval_accuracy", "accuracy on valid"))
        progress.on_train_begin(args, state(0), None)
        logging.getLogger("empathy_trl").warning("what a reward says")
        warnings.warn("what torch says", stacklevel=1)
        progress.on_train_end(args, state(10), None)
    screen = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")]
    assert screen[0] == "what a reward says" and screen[1].endswith("UserWarning: what torch says")
    assert screen[-2].startswith("grpo:   0%|")


def test_rows_after_the_checkpoint_are_written_again_not_twice(tmp_path):
    log = MetricsLog(tmp_path)
    log.on_train_begin(None, state(0), None)
    for step in (1, 2, 3):
        log.on_log(None, state(step), None, logs={"loss": step})
    log.on_train_begin(None, state(2), None)  # resumes from step 2
    log.on_log(None, state(3), None, logs={"loss": 30})
    rows = [(row["step"], row["loss"]) for row in logged_rows(tmp_path / "metrics.jsonl")]
    assert rows == [(1, 1), (2, 2), (3, 30)]


def test_a_line_that_a_crash_cut_short_is_dropped_and_other_damage_is_not(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"st')
    assert logged_rows(tmp_path / "m.jsonl") == [{"step": 1}]
    (tmp_path / "m.jsonl").write_text('{"st\n{"step": 1}\n')
    with pytest.raises(UserError, match="m.jsonl, line 1: not valid JSON"):
        logged_rows(tmp_path / "m.jsonl")
    assert logged_rows(tmp_path / "nothing.jsonl") == []


def test_a_reward_that_does_not_apply_is_null_everywhere(tmp_path):
    trainer = trainer_with(["a"])
    trainer._logs["rewards"]["format"] = [float("nan")]
    SamplePages(tmp_path, trainer, per_page=1).on_step_end(None, state(1), None)
    assert logged_rows(tmp_path / "samples.jsonl")[0]["rewards"] == {"format": None}
    assert "Rewards: format not applicable" in (tmp_path / "samples.md").read_text()
    log = MetricsLog(tmp_path)
    log.on_log(None, state(1), None, logs={"loss": float("inf")})
    log.on_train_begin(None, state(1), None)
    assert logged_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None}]


def test_line_separators_inside_a_completion_survive(tmp_path):
    pages = SamplePages(tmp_path, trainer_with(["a\u2028b\x85c"]), per_page=1)
    pages.on_step_end(None, state(1), None)
    pages.on_step_end(None, state(10), None)
    assert [row["completion"] for row in logged_rows(tmp_path / "samples.jsonl")] == ["a\u2028b\x85c"] * 2


def trainer_with(completions):
    messages = [[{"role": "assistant", "content": text}] for text in completions]
    prompts = [[{"role": "user", "content": f"prompt {i}"}] for i in range(len(completions))]
    rewards = {"format": [float(i) for i in range(len(messages))]}
    return SimpleNamespace(_logs={"prompt": prompts, "completion": messages, "rewards": rewards})


def test_samples_of_a_resumed_run_replace_those_of_the_same_step(tmp_path):
    pages = SamplePages(tmp_path, trainer_with(["a", "b", "c", "d"]), per_page=2)
    for step in (1, 2, 5, 10, 5, 10):  # killed after 10, resumed from 4
        pages.on_step_end(None, state(step), None)
    rows = logged_rows(tmp_path / "samples.jsonl")
    assert [(row["step"], row["moment"], row["completion"]) for row in rows] == [
        (1, "start", "a"), (1, "start", "c"), (5, "middle", "a"), (5, "middle", "c"), (10, "end", "a"), (10, "end", "c"),
    ]  # fmt: skip


def test_page_shows_text_as_it_is():
    row = {"step": 1, "moment": "start", "prompt": "line one\nline two", "completion": "```<b>"}
    page = samples_page([row | {"rewards": {"f": None, "g": 0.5}}])
    assert "> line one\n> line two" in page
    assert "```\n'''<b>\n```" in page
    assert "Rewards: f not applicable, g 0.500" in page

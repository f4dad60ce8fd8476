"""What a run shows and leaves behind: metrics, pictures, samples, and warnings of PPO."""

import logging
import re
from types import SimpleNamespace

import pytest

from empathy_trl.errors import UserError
from empathy_trl.trainers.callbacks import MetricsLog, PPOAdvice, ProgressBar, SamplePages, logged_rows, samples_page


def state(step, max_steps=10):
    return SimpleNamespace(global_step=step, max_steps=max_steps, is_world_process_zero=True)


def test_the_progress_bar_shows_the_latest_figures():
    bar, shown = ProgressBar(), {}
    bar.training_bar = SimpleNamespace(set_postfix=shown.update)
    bar.on_log(None, state(1), None, logs={"loss": 0.12345, "explained_variance": 1.0, "kl": None, "grad_norm": 2.0})
    assert shown == {"loss": "0.123", "EV": "1"}


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


ARGS = SimpleNamespace(critic_learning_rate=1e-4, critic_warmup_steps=0, kl_coef=0.05, learning_rate=1e-6)
HEALTHY = {"reward": 0.5, "explained_variance": 0.2, "kl": 0.1, "completions/mean_length": 20.0, "distinct_2": 0.8}


def warnings_of(rows, caplog, **args):
    advice = PPOAdvice()
    with caplog.at_level(logging.WARNING):
        for step, row in enumerate(rows, 1):
            state = SimpleNamespace(is_world_process_zero=True, global_step=step)
            advice.on_log(SimpleNamespace(**{**vars(ARGS), **args}), state, None, logs=row)
    return [record.getMessage() for record in caplog.records]


def rows(count, **changes):
    return [{**HEALTHY, **changes} for _ in range(count)]


SHORT = {"completions/mean_length": 5.0}
TROUBLES = {
    "critic": (rows(12, explained_variance=-0.3), r"critic explains nothing \(explained variance -0.30"),
    "KL": (rows(12, kl=2.0), r"reference \(KL 2.00 nats per token\).*Raise trainer.kl_coef \(now 0.05\)"),
    "length": (rows(10) + rows(12, reward=0.9, **SHORT), "the length of completions collapses .from 20 to 5."),
    "variety": (rows(10) + rows(12, reward=0.9, distinct_2=0.1), "the distinct-2 collapses .from 0.8 to 0.1."),
}


@pytest.mark.parametrize("logged, message", TROUBLES.values(), ids=TROUBLES)
def test_each_trouble_is_said_once(logged, message, caplog):
    said = warnings_of(logged, caplog)
    assert len(said) == 1 and re.search(message, said[0])


FINE = {
    "healthy": rows(30),
    "too early": rows(9, explained_variance=-1.0, kl=9.0),
    "one good row": rows(9, explained_variance=-0.3) + rows(1) + rows(9, explained_variance=-0.3),
    "shorter and worse": rows(10) + rows(12, reward=0.1, **SHORT),
    "rows of something else": [{"loss": 1.0}] * 30,
}


@pytest.mark.parametrize("logged", FINE.values(), ids=FINE)
def test_no_trouble_is_invented(logged, caplog):
    assert warnings_of(logged, caplog) == []


def test_a_critic_that_warms_up_is_left_alone(caplog):
    logged = rows(12, explained_variance=-0.3) + rows(20)
    for steps in (30, 3):  # the last rows of the warm-up do not count later on
        assert warnings_of(logged, caplog, critic_warmup_steps=steps) == []


def test_rows_in_which_no_reward_applied_stop_nothing(caplog):
    nothing = {"reward": None, "kl": None, "completions/mean_length": None}
    assert warnings_of(rows(15) + rows(1, **nothing) + rows(15), caplog) == []

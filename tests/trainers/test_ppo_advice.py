"""The warnings of PPO: each when its trouble shows, once, and none in a healthy run."""

import logging
from types import SimpleNamespace

import pytest

from empathy_trl.trainers.callbacks import PPOAdvice

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


TROUBLES = {
    "critic": (rows(12, explained_variance=-0.3), r"critic explains nothing \(explained variance -0.30"),
    "KL": (
        rows(12, kl=2.0),
        r"runs away from its reference \(KL 2.00 nats per token\).*Raise trainer.kl_coef \(now 0.05\)",
    ),
    "length": (
        rows(10) + rows(12, reward=0.9, **{"completions/mean_length": 5.0}),
        "reward rises while the length of completions collapses .from 20 to 5.",
    ),
    "variety": (rows(10) + rows(12, reward=0.9, distinct_2=0.1), "the distinct-2 collapses .from 0.8 to 0.1."),
}


@pytest.mark.parametrize("logged, message", TROUBLES.values(), ids=TROUBLES)
def test_each_trouble_is_said_once(logged, message, caplog):
    import re

    said = warnings_of(logged, caplog)
    assert len(said) == 1 and re.search(message, said[0])


FINE = {
    "healthy": rows(30),
    "too early": rows(9, explained_variance=-1.0, kl=9.0),
    "one good row": rows(9, explained_variance=-0.3) + rows(1) + rows(9, explained_variance=-0.3),
    "shorter and worse": rows(10) + rows(12, reward=0.1, **{"completions/mean_length": 5.0}),
    "rows of something else": [{"loss": 1.0}] * 30,
}


@pytest.mark.parametrize("logged", FINE.values(), ids=FINE)
def test_no_trouble_is_invented(logged, caplog):
    assert warnings_of(logged, caplog) == []


def test_a_critic_that_warms_up_is_left_alone(caplog):
    assert warnings_of(rows(30, explained_variance=-0.3), caplog, critic_warmup_steps=30) == []
    # its last rows do not count later on
    logged = rows(12, explained_variance=-0.3) + rows(20)
    assert warnings_of(logged, caplog, critic_warmup_steps=3) == []


def test_rows_in_which_no_reward_applied_stop_nothing(caplog):
    nothing = {"reward": None, "kl": None, "completions/mean_length": None}
    assert warnings_of(rows(15) + rows(1, **nothing) + rows(15), caplog) == []

"""Advice during a training: which figures cause it, what it says, and that a resume does not repeat it."""

import json
import logging
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from empathy_trl.rewards.base import as_reward
from empathy_trl.rewards.format import Format, FormatPenalty, Length
from empathy_trl.trainers.advice import GRPO_CAUSES, PPO_CAUSES, TrainingAdvice
from empathy_trl.trainers.grpo import length_correlations, token_pairs
from tests.recipes.scripts import ROOT
from tests.trainers.settings import make_trainer

LENGTH, ENDED, CLIPPED = "completions/mean_length", "completions/mean_terminated_length", "completions/clipped_ratio"
GRPO = {
    "max_completion_length": 40, "temperature": 1.0, "num_generations": 8, "beta": 0.0, "learning_rate": 1e-6,
    "entropy_coef": 0.0,
}  # fmt: skip
PPO = GRPO | {"kl_coef": 0.05, "critic_learning_rate": 1e-4, "critic_warmup_steps": 0}
OWN = as_reward(lambda completions, **_: [1.0] * len(completions), "kindness")
REWARDS = (Format(), OWN)


def row(number, **changes):
    """A row of a healthy run, with a little noise."""
    noise = 0.01 * (-1) ** number
    figures = {
        "reward": 0.5 + noise, "reward_std": 0.3, "entropy": 1.0, "kl": 0.1, "zero_spread_share": 0.1, "distinct_2": 0.8,
        LENGTH: 20.0, ENDED: 20.0, CLIPPED: 0.05, "explained_variance": 0.2,
    }  # fmt: skip
    for name in ("format", "kindness"):
        of = {"mean": 0.5 + noise, "std": 0.3, "length_correlation": 0.0}
        figures |= {f"rewards/{name}/{key}": value for key, value in of.items()}
    return figures | {name.replace("format_", "rewards/format/").replace("kindness_", "rewards/kindness/"): value
                      for name, value in changes.items()}  # fmt: skip


def rows(count, **changes):
    return [row(number, **changes) for number in range(count)]


def advice_of(logged, args=GRPO, rewards=REWARDS, logging_steps=1, figure=None, history=()):
    """Return the `TrainingAdvice` that has seen these rows, the first ones as the history of a resume."""
    names = [reward.__name__ for reward in rewards]
    trainer = SimpleNamespace(
        reward_func_names=names, reward_funcs=list(rewards), reward_weights=torch.ones(len(rewards))
    )
    advice = TrainingAdvice(trainer, PPO_CAUSES if "kl_coef" in args else GRPO_CAUSES)
    advice.figure = figure
    args, state = SimpleNamespace(**args), SimpleNamespace(is_world_process_zero=True, logging_steps=logging_steps)
    steps = range(logging_steps, logging_steps * (len(history) + len(logged)) + 1, logging_steps)
    state.log_history = [{**row, "step": step} for row, step in zip(history, steps, strict=False)]
    advice.on_train_begin(args, state, None)
    for state.global_step, row in zip(steps[len(history) :], logged, strict=True):
        advice.on_log(args, state, None, logs=row)
    return advice


RISEN = {"reward": 0.9, "kindness_mean": 0.9}
NO_ROWS = {LENGTH: None, "reward": None}
SAME = {"reward_std": 0.0, "zero_spread_share": 1.0}
LONG = {**RISEN, LENGTH: 35.0, "kindness_length_correlation": 0.9}


def held_out(*values):
    return [{"eval_accuracy": value, "eval_accuracy_low": value - 0.1} for value in values]


# rows of the log, config, causes, and what the last message says
CAUSES = {
    "clipped": (rows(12, **{CLIPPED: 0.7}), GRPO, ["clipped"], r"70% of .*max_completion_length \(now 40\).*Raise it"),
    "no end": (rows(12, **{CLIPPED: 1.0}), GRPO, ["clipped"], "has not learned to stop: train it first on .* an end token"),
    "agree": (rows(12, zero_spread_share=0.9), GRPO, ["zero_spread"],
              r"90% of the groups.*temperature \(now 1\) or trainer.num_generations \(now 8\).*dynamic_sampling: true.*or set trainer.skip_solved$"),
    "kept": (rows(12, groups_kept=1.0), GRPO | {"dynamic_sampling": True, "max_resampling": 3, "generation_batch_size": 32},
             ["zero_spread"], r"75% of the groups.*or raise trainer.max_resampling \(now 3\)"),
    "one never": (rows(12, format_mean=0.0, format_std=0.0), GRPO, ["nothing_earned"], r"^rewards\.format gave every .*warm start"),
    "none ever": (rows(12, reward=0.0, kindness_mean=0.0, kindness_std=0.0, **SAME), GRPO, ["nothing_earned"],
                  r"^rewards\.format, rewards\.kindness gave"),
    "longer": (rows(10) + rows(12, **LONG), GRPO, ["longer"],
               r"from 20 to 35 tokens.* is 40\): rewards\.kindness rose from 0.5 to 0.9.*\(correlation 0.90\).*pair it with length"),
    "longer, cut": (rows(10) + rows(12, **LONG | {CLIPPED: 0.9}), GRPO, ["longer"], "lower rewards.kindness.weight .now 1."),
    "shorter": (rows(10) + rows(12, **RISEN, **{ENDED: 5.0}), GRPO, ["shorter"], "from 20 to 5 tokens.*rewards.kindness rose"),
    "alike": (rows(10) + rows(12, distinct_2=0.1, **RISEN), GRPO, ["less_varied"],
              r"distinct-2 fell from 0.8 to 0.1\).*pair it with repetition_penalty and distinct, or raise trainer.beta \(now 0\)"),
    "kl": (rows(12, kl=5.0), PPO, ["kl_runs_away"], r"KL 5 nats.*Raise trainer.kl_coef \(now 0.05\)"),
    "entropy": (rows(10) + rows(12, entropy=0.01), GRPO, ["entropy_collapses"], r"from 1 to 0.01 nats.*entropy_coef \(now 0\)"),
    "critic": (rows(12, explained_variance=-0.3), PPO, ["critic_explains_nothing"], "explained variance -0.30"),
    "held out": (held_out(0.7) + rows(10) + held_out(0.75) + rows(12, **RISEN) + held_out(0.6, 0.6), GRPO, ["held_out_falls"],
                 "held-out accuracy gets worse .from 0.75 at step 12 to 0.6, beyond its 95 % interval.*evaluation.best: accuracy"),
}  # fmt: skip


@pytest.mark.parametrize("logged, args, causes, message", CAUSES.values(), ids=CAUSES)
def test_each_cause_is_reported_once_with_keys_and_their_values(logged, args, causes, message, caplog):
    with caplog.at_level(logging.WARNING):
        given = advice_of(logged, args, figure="eval_accuracy").given
    assert [each["cause"] for each in given] == causes
    assert re.search(message, given[-1]["message"]) and "nan" not in given[-1]["message"].split()
    assert [f"step {each['step']}: {each['message']}" for each in given] == [r.getMessage() for r in caplog.records]


PENALTY = [FormatPenalty(), OWN]
HEALTHY = {
    "healthy": (rows(40), {}),
    "too early": (rows(9, kl=90.0, **SAME), {}),
    "few rows of many steps": (rows(4, kl=90.0, **SAME), {"logging_steps": 10}),
    "solved, then agreed": (rows(10) + rows(12, reward=0.9, zero_spread_share=0.5), {}),
    "rows without figures": ([{"loss": 1.0}, row(1, **dict.fromkeys(row(1))), {"reward": float("nan")}] * 20, {}),
    "reward only": ([{"reward": number / 9} for number in range(40)], {}),
    "longer, not paid": (rows(10) + rows(12, **LONG | {"kindness_length_correlation": 0.2}), {}),
    "longer, worse": (rows(10) + rows(12, **LONG | {"reward": 0.4}), {}),
    "longer, still short": (rows(10) + rows(12, **LONG), {"args": GRPO | {"max_completion_length": 400}}),
    "learned to end": (rows(10, **{LENGTH: 40.0, ENDED: 18.0, CLIPPED: 0.5}) + rows(12, **RISEN), {}),
    "shorter, as asked": (rows(10) + rows(12, **RISEN, **{ENDED: 5.0}), {"rewards": (Format(), OWN, Length())}),
    "alike, worse": (rows(10) + rows(12, distinct_2=0.1), {}),
    "a KL that comes back": (rows(10, kl=6.0, reward=None) + rows(9, kl=6.0), {}),
    "a penalty that is not needed": (rows(12, **{"rewards/format_penalty/mean": 0.0, "rewards/format_penalty/std": 0.0}),
                                     {"rewards": PENALTY}),
    "earned before": (rows(10) + rows(12, format_mean=0.0, format_std=0.0), {}),
    "held out, within": (held_out(0.7) + rows(10) + rows(12, **RISEN) + held_out(0.65, 0.65), {"figure": "eval_accuracy"}),
    "held out, once": (held_out(0.7, 0.7) + rows(10) + rows(12, **RISEN) + held_out(0.5), {"figure": "eval_accuracy"}),
    "critic, one good row": (rows(9, explained_variance=-0.3) + rows(1) + rows(9, explained_variance=-0.3), {"args": PPO}),
    "critic, noise": (rows(30, explained_variance=-0.1), {"args": PPO}),
    "critic warms up": (rows(12, explained_variance=-0.3) + rows(9), {"args": PPO | {"critic_warmup_steps": 12}}),
    "agree, with a critic": (rows(12, zero_spread_share=0.9), {"args": PPO}),
}  # fmt: skip


@pytest.mark.parametrize("logged, settings", HEALTHY.values(), ids=HEALTHY)
def test_healthy_rows_get_no_advice(logged, settings):
    assert advice_of(logged, **settings).given == []


def test_the_first_step_is_explained_once_and_is_no_advice(capsys):
    odd = [row(number, loss=1e-9, learning_rate=0.0) for number in range(12)]
    assert advice_of(odd, GRPO | {"warmup_steps": 10}).given == []
    assert advice_of(odd, PPO | {"warmup_steps": 10}).given == []
    rate, loss, again = capsys.readouterr().err.splitlines()
    assert rate == again == "step 1: a learning rate of 0 is normal: with trainer.warmup_steps (10), it rises from 0"
    assert loss.startswith("step 1: a loss of 0 is normal in GRPO")


@pytest.mark.parametrize("cut", [5, 11, 21, 22])
def test_a_resume_repeats_no_advice_and_ends_with_the_same(cut, caplog):
    logged = rows(11, zero_spread_share=0.9) + rows(11, **LONG)
    whole = advice_of(logged).given
    assert [each["cause"] for each in whole] == ["zero_spread", "longer"]
    history = json.loads(json.dumps(logged[:cut]))  # as in trainer_state.json
    caplog.clear()
    resumed = advice_of(logged[cut:], history=history)
    assert resumed.given == whole
    assert len(caplog.records) == sum(each["step"] > cut for each in whole)


def test_a_training_and_its_resume_give_the_same_advice(tiny_folder, tmp_path, caplog):
    def nothing(completions, **_):
        return [0.0] * len(completions)

    settings = {"reward": nothing, "max_steps": 12, "save_strategy": "steps", "save_steps": 11}
    whole = make_trainer(tiny_folder, tmp_path, **settings)
    whole.train()
    assert {"nothing_earned", "clipped"} <= {each["cause"] for each in whole.advice.given}
    assert "step 10: rewards.nothing gave every completion" in caplog.text
    caplog.clear()
    resumed, saved = make_trainer(tiny_folder, tmp_path, **settings), []
    resumed.advice.save = saved.append
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-11"))
    assert saved == [whole.advice.given] and "step 10" not in caplog.text


def test_the_figures_of_a_rollout():
    rewards = torch.tensor([[1.0, 5.0, float("nan")], [2.0, 5.0, 1.0], [9.0, 5.0, 2.0], [7.0, 5.0, 0.0]])
    lengths = torch.tensor([10, 20, 30, 20])
    paid, constant, rare = length_correlations(rewards, lengths, 2)
    assert paid == pytest.approx((5 + 10) / ((0.5 + 2) * (50 + 50)) ** 0.5)  # within groups, not over all rows
    assert math.isnan(constant) and rare == pytest.approx(1.0)
    ids, mask = torch.tensor([[5, 6, 5, 6], [5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    pairs = token_pairs(ids, mask)
    assert len(pairs) == 5 and len(pairs.unique()) == 3  # 5 6, 6 5, 6 7


@pytest.mark.slow
def test_a_reward_that_pays_for_length_is_named_before_half_of_the_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    import curves

    _, advice = curves.train("longer")
    monkeypatch.delitem(sys.modules, "curves")
    [found] = [each for each in advice if each["cause"] == "longer"]
    assert found["step"] < curves.STEPS / 2 and "rewards.words rose from" in found["message"]

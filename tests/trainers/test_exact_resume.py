"""A killed run, and one that a reward has stopped, end after a resume with the weights of an undisturbed run."""

import json
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from empathy_trl.errors import StopTraining, UserError
from empathy_trl.recipe.stages import last_checkpoint
from empathy_trl.rewards.llm_judge import LLMJudge
from empathy_trl.trainers.exact_resume import EpochRepeatSampler, row_weights
from empathy_trl.trainers.grpo import EmpathyGRPOTrainer
from empathy_trl.trainers.ppo import EmpathyPPOTrainer, PPOConfig
from tests.models.scripted_server import CUT, ScriptedServer, answer
from tests.trainers.settings import ROWS, assert_identical, kill, length_reward, make_trainer, weights_of, without_times

ROOT = Path(__file__).resolve().parents[2]


class JudgeIsGone(StopTraining):
    """A stop of a class of its own."""


class Mortal:
    """`length_reward` under its own name, until call number `dies_at` (and for ever after)."""

    __name__ = "length_reward"

    def __init__(self, dies_at):
        self.calls_left = dies_at - 1

    def __call__(self, completions, **columns):
        if self.calls_left == 0:
            raise JudgeIsGone("the judge is gone.")
        self.calls_left -= 1
        return length_reward(completions)


def logged(trainer):
    """Return the logged rows without timings."""
    return without_times(trainer.state.log_history)


WEIGHTED = ROWS.add_column("row_weight", [0.0, 2.0, 0.5, 1.0, 1.5, 1.0, 1.0, 0.5])
PPO = {"kinds": (EmpathyPPOTrainer, PPOConfig), "critic_learning_rate": 0.01}
# settings, the step at which the process is killed
KILLED = {
    "between rollouts": ({"save_steps": 2}, 3),
    "inside a rollout": ({"save_steps": 3, "num_iterations": 2, "steps_per_generation": 2, "max_steps": 4}, 3),
    "rollout longer than accumulation": (
        {
            "save_steps": 1,
            "steps_per_generation": 4,
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 2,
        },
        3,
    ),
    "second epoch": ({"save_steps": 5, "max_steps": 8}, 6),
    "second epoch of weighted rows": ({"save_steps": 5, "max_steps": 8, "train_dataset": WEIGHTED}, 6),
    "with a reference model and a warm-up": ({"save_steps": 2, "beta": 0.1, "warmup_steps": 3}, 5),
    "PPO, between rollouts": (PPO | {"save_steps": 2}, 3),
    "PPO, inside a rollout": (PPO | {"save_steps": 3, "num_iterations": 2, "steps_per_generation": 2}, 4),
    "PPO, backbone of its own": (PPO | {"save_steps": 2, "critic_kind": "model"}, 3),
    "PPO, in the critic's warm-up": (PPO | {"save_steps": 2, "critic_warmup_steps": 4}, 3),
}


@pytest.mark.parametrize("settings, kill_at", KILLED.values(), ids=KILLED)
def test_resume_after_sigkill_is_bit_identical(tiny_folder, tmp_path, settings, kill_at):
    settings = {"save_strategy": "steps", **settings}
    undisturbed = make_trainer(tiny_folder, tmp_path / "undisturbed", **settings)
    undisturbed.train()

    kill(lambda callbacks: make_trainer(tiny_folder, tmp_path / "killed", callbacks=callbacks, **settings), kill_at)

    checkpoint = last_checkpoint(tmp_path / "killed")
    assert 0 < int(checkpoint.name.split("-")[1]) <= kill_at
    resumed = make_trainer(tiny_folder, tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_identical(weights_of(undisturbed), weights_of(resumed))
    assert without_times(undisturbed.state.log_history) == without_times(resumed.state.log_history)
    assert undisturbed._logs == resumed._logs, "samples.md shows these texts"


@pytest.mark.faults
@pytest.mark.parametrize("kind", [{"beta": 0.1}, PPO | {"kl_coef": 0.1}], ids=["GRPO", "PPO"])
def test_a_resume_goes_on_with_the_adapter_in_training_beside_that_of_the_reference(tiny_folder, tmp_path, kind):
    torch.manual_seed(0)
    adapter = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False),
    )
    adapter.save_pretrained(tmp_path / "adapter")

    def make(folder, **more):
        base = AutoModelForCausalLM.from_pretrained(tiny_folder)
        model = PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)
        return make_trainer(
            tiny_folder, tmp_path / folder, model=model, save_strategy="steps", save_steps=2, **kind, **more
        )

    undisturbed = make("undisturbed")
    undisturbed.train()
    kill(lambda callbacks: make("killed", callbacks=callbacks), 3)
    resumed = make("killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-2"))
    assert_identical(weights_of(undisturbed), weights_of(resumed))
    assert without_times(undisturbed.state.log_history) == without_times(resumed.state.log_history)
    configs = [json.loads(path.read_text()) for path in tmp_path.glob("*/checkpoint-2/**/adapter_config.json")]
    names = [config["target_modules"] for config in configs]
    assert len(names) == 4 and len(names[0]) == 14 and all(each == sorted(each) for each in names)  # peft keeps sets


def test_epochs_differ_in_order_and_the_first_is_the_parents(tiny_folder, tmp_path):
    trainer = make_trainer(tiny_folder, tmp_path)
    ours = trainer._get_train_sampler()
    theirs = super(EmpathyGRPOTrainer, trainer)._get_train_sampler()
    ours.set_epoch(0)
    first = list(ours)
    assert first == list(theirs)
    ours.set_epoch(1)
    second = list(ours)
    assert second != first
    ours.set_epoch(1)
    assert list(ours) == second


def test_rows_are_drawn_as_often_as_their_weights_say():
    weights = numpy.array([1, 2, 0.5, 0, 1, 1.5] * 10)
    sampler = EpochRepeatSampler(range(60), 1, seed=3, weights=weights)
    counts = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        sampler.set_epoch(epoch)
        assert rows == list(sampler), "by (seed, epoch) alone"
        counts.append(numpy.bincount(rows, minlength=60))
    assert {each.sum() for each in counts} == {60}
    assert (numpy.abs(counts - weights) < 1).all(), "rounded down or up"
    assert numpy.abs(numpy.mean(counts, axis=0) - weights).max() < 0.15
    assert len({tuple(each) for each in counts}) > 1


def test_rows_of_the_same_weight_are_drawn_as_without_weights():
    assert row_weights(Dataset.from_dict({"row_weight": [0.3] * 7})) is None
    plain, weighted = (
        EpochRepeatSampler(range(7), 1, seed=3),
        EpochRepeatSampler(range(7), 1, seed=3, weights=numpy.full(7, 0.3)),
    )
    assert list(plain) == list(weighted)
    assert row_weights(Dataset.from_dict({"row_weight": [None, 2.0]})).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0, 0], "row_weight is 0 in all 2 rows"),
        ([1, -2], "train_dataset, row 1: unusable row_weight: -2; expected a number of at least 0"),
        ([math.nan, 1], "row 0: unusable row_weight: nan"),
        (["1", "a"], "row 1: unusable row_weight: 'a'"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights, message):
    rows = Dataset.from_dict({"row_weight": weights})
    with pytest.raises(UserError, match=message):
        row_weights(rows)
    with pytest.raises(UserError, match="row_weight does not work with an iterable data set"):
        row_weights(rows.to_iterable_dataset())


def test_a_checkpoint_of_another_number_of_processes_goes_on_with_a_new_rollout(tiny_folder, tmp_path, caplog):
    trainer = make_trainer(tiny_folder, tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    checkpoint = last_checkpoint(tmp_path)
    (checkpoint / "rollout_0.pt").unlink()
    resumed = make_trainer(tiny_folder, tmp_path, max_steps=4)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 4
    assert "has rollouts of 0 processes, and there are 1 now: the resumed run is not identical" in caplog.text


# settings, the rollout that fails, complete steps at that time; an epoch has four steps
SETTINGS = {
    "between two steps": ({}, 3, 2),
    "before the first step": ({"max_steps": 2}, 1, 0),
    "first rows of the second epoch": ({"max_steps": 6}, 5, 4),
    "in the middle of an accumulation": ({"gradient_accumulation_steps": 2, "steps_per_generation": 1}, 6, 2),
    "rollouts that end within a step": (
        {"gradient_accumulation_steps": 2, "steps_per_generation": 3, "per_device_train_batch_size": 2},
        2,
        1,
    ),
    "rollouts used twice": ({"num_iterations": 2, "steps_per_generation": 2, "max_steps": 6}, 2, 4),
    "logged less often than rolled out": ({"logging_steps": 4}, 4, 3),
}


@pytest.mark.parametrize(("settings", "dies_at", "done"), SETTINGS.values(), ids=SETTINGS)
def test_resume_is_bit_identical(tiny_folder, tmp_path, settings, dies_at, done):
    settings = {"max_steps": 4, **settings}
    undisturbed = make_trainer(tiny_folder, tmp_path / "undisturbed", **settings)
    undisturbed.train()

    stopped = make_trainer(tiny_folder, tmp_path / "stopped", Mortal(dies_at), **settings)
    with pytest.raises(JudgeIsGone) as caught:
        stopped.train()
    checkpoint = last_checkpoint(tmp_path / "stopped")
    assert checkpoint == tmp_path / "stopped" / f"checkpoint-{done}"
    what = f"The state after step {done}" if done else "No step is complete; the state before the first one"
    assert str(caught.value) == (
        f"the judge is gone.\n{what} is saved in {checkpoint}: start again with the same settings to continue from there."
    )

    resumed = make_trainer(tiny_folder, tmp_path / "stopped", **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_identical(weights_of(undisturbed), weights_of(resumed))
    assert logged(undisturbed) == logged(resumed)


def test_it_may_stop_again_and_again(tiny_folder, tmp_path):
    """Each number is the rollout that fails, counted from the last resume; the second epoch begins after step 4."""
    undisturbed = make_trainer(tiny_folder, tmp_path / "undisturbed", max_steps=6)
    undisturbed.train()
    for dies_at in (1, 1, 3, 1, 3, 1, 2, 100):  # complete then: 0, 0, 2, 2, 4, 4, 5
        trainer = make_trainer(tiny_folder, tmp_path / "stopped", Mortal(dies_at), max_steps=6)
        checkpoint = last_checkpoint(tmp_path / "stopped")
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except JudgeIsGone:
            assert dies_at < 100
    assert {path.name for path in (tmp_path / "stopped").glob("checkpoint-*")} == {
        f"checkpoint-{step}" for step in (0, 2, 4, 5)
    }
    assert_identical(weights_of(undisturbed), weights_of(trainer))


def test_the_checkpoint_holds_the_weights_of_the_complete_steps(tiny_folder, tmp_path):
    two_steps = make_trainer(tiny_folder, tmp_path / "two", max_steps=2, lr_scheduler_type="constant")
    two_steps.train()
    trainer = make_trainer(tiny_folder, tmp_path / "stopped", Mortal(3), lr_scheduler_type="constant")
    with pytest.raises(JudgeIsGone):
        trainer.train()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "stopped" / "checkpoint-2").state_dict()
    assert_identical(weights_of(two_steps), saved)


def test_a_stop_in_an_evaluation_saves_the_step_before_it(tiny_folder, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "per_device_eval_batch_size": 8}
    trainer = make_trainer(tiny_folder, tmp_path, Mortal(dies_at=3), eval_dataset=ROWS, **settings)
    with pytest.raises(JudgeIsGone, match="The state after step 2 is saved in .*checkpoint-2"):
        trainer.train()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2").state_dict()
    assert_identical(weights_of(trainer), saved)


def test_an_evaluation_of_its_own_saves_nothing(tiny_folder, tmp_path):
    trainer = make_trainer(tiny_folder, tmp_path, Mortal(dies_at=1))
    with pytest.raises(JudgeIsGone, match=r"^the judge is gone\.$"):
        trainer.evaluate(ROWS)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_other_errors_of_rewards_leave_as_they_are(tiny_folder, tmp_path):
    def broken(completions, **columns):
        raise UserError("rewards.broken: needs a column `x` in the data")

    trainer = make_trainer(tiny_folder, tmp_path, [length_reward, broken])
    with pytest.raises(UserError, match="^rewards.broken: needs a column `x` in the data$"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def grade(request):
    """Return scores that differ between replies and are the same for the same reply."""
    return answer(json.dumps({"empathy": 1 + zlib.crc32(request["messages"][1]["content"].encode()) % 5}))


def test_a_judge_that_dies_and_comes_back(tiny_folder, tmp_path):
    """Two good steps, then nobody answers; with the judge back the run ends as if nothing had been."""

    def train(folder, script, resume=None):
        with ScriptedServer(script) as server:
            judge = LLMJudge(server.base_url, "m", wait=0, retries=1, cache_dir=None, api_key_env=None)
            trainer = make_trainer(tiny_folder, tmp_path / folder, [judge, length_reward])
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    undisturbed = train("undisturbed", grade)
    assert [row["judge/failure_share"] for row in undisturbed.state.log_history[:-1]] == [0.0] * 6
    assert len({row["judge/empathy"] for row in undisturbed.state.log_history[:-1]}) > 1, "the scores vary"

    seen = []

    def dying(request):
        seen.append(request)
        return grade(request) if len(seen) <= 8 else CUT  # two rollouts of four completions

    with pytest.raises(StopTraining, match="replies got no score from m at (.|\n)*The state after step 2 is saved in"):
        train("stopped", dying)
    resumed = train("stopped", grade, resume=str(tmp_path / "stopped" / "checkpoint-2"))
    assert_identical(weights_of(undisturbed), weights_of(resumed))
    assert logged(undisturbed) == logged(resumed)


TWO_PROCESSES = """
import gc
import sys
from pathlib import Path
from tests.trainers.settings import length_reward, make_trainer
from tests.trainers.test_exact_resume import JudgeIsGone
from empathy_trl.engine import join_processes
import torch.distributed as dist

join_processes()
calls = 0
def reward(completions, **columns):
    global calls
    calls += 1
    if calls == int(sys.argv[3]) and dist.get_rank() == 1:
        raise JudgeIsGone("gone in process 1.")
    return length_reward(completions)

trainer = make_trainer(sys.argv[1], sys.argv[2], reward, use_cpu=True, max_steps=4)
assert trainer.accelerator.num_processes == 2
checkpoint = Path(sys.argv[2], "checkpoint-2")
try:
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint.exists() else None)
except JudgeIsGone as stop:
    Path(sys.argv[2], f"stop_{dist.get_rank()}.txt").write_text(str(stop))
else:
    trainer.save_model(sys.argv[2])
del trainer
gc.collect()  # DDP's threads end before the interpreter does, as after a stage of run.py
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_exactly(tiny_folder, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def train(folder, dies_at):
        command = [*launch, str(script), str(tiny_folder), str(tmp_path / folder), str(dies_at)]
        subprocess.run(command, check=True, env=environment, timeout=300)

    train("undisturbed", 100)
    train("stopped", 3)
    messages = {(tmp_path / "stopped" / f"stop_{rank}.txt").read_text() for rank in range(2)}
    assert len(messages) == 1
    assert messages.pop().startswith("gone in process 1.\nThe state after step 2 is saved in")
    train("stopped", 100)
    left, right = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("undisturbed", "stopped"))
    assert left == right

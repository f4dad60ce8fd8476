"""Groups that teach nothing and prompts that are solved: what takes their place, the loss, the log, exact resume, refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from empathy_trl.errors import StopTraining, UserError
from empathy_trl.recipe.stages import last_checkpoint
from empathy_trl.rewards.base import WeightSchedule
from empathy_trl.trainers.dynamic_sampling import FreshRows, SolvedPrompts, has_spread
from empathy_trl.trainers.grpo import EmpathyGRPOConfig
from empathy_trl.trainers.ppo import EmpathyPPOTrainer, PPOConfig
from tests.trainers.settings import ROWS, assert_identical, kill, make_trainer, weights_of, without_times

ROOT = Path(__file__).resolve().parents[2]
NAN = float("nan")
# prompts with an even number teach nothing
MANY = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"number {i}"}] for i in range(24)]})
DYNAMIC = {"dynamic_sampling": True, "train_dataset": MANY, "per_device_train_batch_size": 8, "num_generations": 2}


def odd_reward(prompts, completions, log_extra, **columns):
    """The number of letters for odd prompts, 1 for even ones."""
    numbers = [int(prompt[0]["content"].split()[1]) for prompt in prompts]
    log_extra("number", numbers)
    letters = [len(completion[0]["content"]) for completion in completions]
    return [float(each) if number % 2 else 1.0 for number, each in zip(numbers, letters, strict=True)]


def short_reward(completions, **columns):
    """Fewer letters, more reward."""
    return [-0.1 * len(completion[0]["content"]) for completion in completions]


def solved_reward(prompts, **columns):
    """The highest reward for even prompts, the number of letters for odd ones."""
    return [100.0 if each == 1.0 else each for each in odd_reward(prompts, **columns)]


def make(tiny_folder, folder, reward=odd_reward, **settings):
    return make_trainer(tiny_folder, folder, reward, **{**DYNAMIC, **settings})


@pytest.mark.parametrize(
    ("rewards", "weights", "aggregation", "spread"),
    [
        ([[1, 0], [1, 0], [1, 0], [0, 0]], [1.0, 0.3], "sum_then_normalize", [False, True]),
        ([[0.1, 0.2], [0.2, 0.1], [1, 2], [2, 2]], [0.3, 0.3], "sum_then_normalize", [False, True]),
        ([[0.1, 0.2], [0.2, 0.1], [1, 2], [1, 3]], [0.3, 0.0], "normalize_then_sum", [True, False]),
        ([[NAN, NAN], [1, NAN], [NAN, NAN], [NAN, NAN]], [1.0, 1.0], "sum_then_normalize", [False, False]),
        ([[NAN, 0], [1, NAN]], [1.0, 1.0], "sum_then_normalize", [True]),
    ],
    ids=["equal", "equal in total", "each for itself", "no reward applies", "None counts as 0 in a total"],
)
def test_which_groups_have_spread(rewards, weights, aggregation, spread):
    assert has_spread(torch.tensor(rewards), torch.tensor(weights), 2, aggregation).tolist() == spread


def test_fresh_rows_depend_on_the_seed_and_the_position_alone():
    order = FreshRows(5, seed=1)
    first = [next(order) for _ in range(12)]
    assert sorted(first[:5]) == sorted(first[5:10]) == list(range(5))
    assert first[:5] != first[5:10]
    again, other = FreshRows(5, seed=1), FreshRows(5, seed=2)
    again.position = 7
    assert [next(again) for _ in range(5)] == first[7:]
    assert [next(other) for _ in range(12)] != first


@pytest.mark.parametrize(
    "settings",
    [
        {"scale_rewards": "group"},
        {"scale_rewards": "batch"},
        {"scale_rewards": "none"},
        {"multi_objective_aggregation": "normalize_then_sum"},
        {"num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 4, "beta": 0.1},
    ],
    ids=lambda settings: " ".join(f"{value}" for value in settings.values()),
)
def test_the_loss_reads_whole_groups_with_spread(tiny_folder, tmp_path, settings):
    rewards, weights = [odd_reward, short_reward], torch.tensor([1.0, 0.0])
    if "multi_objective_aggregation" in settings:
        rewards, weights = [odd_reward, odd_reward], torch.tensor([1.0, 0.5])
    trainer = make(tiny_folder, tmp_path, rewards, weights=weights.tolist(), max_resampling=5, **settings)
    outputs = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: outputs.append(score(inputs)) or outputs[-1]
    trainer.train()
    output, logs = outputs[-1], trainer._logs

    assert all(number % 2 for number in logs["extra"]["number"])
    for row, (prompt, completion) in enumerate(zip(logs["prompt"], logs["completion"], strict=True)):
        tokens = trainer._tokenizer.decode(output["prompt_ids"][row][output["prompt_mask"][row].bool()])
        assert prompt[0]["content"] in tokens
        own = output["completion_ids"][row][output["completion_mask"][row].bool()]
        assert trainer._tokenizer.decode(own, skip_special_tokens=True) == completion[0]["content"]
    assert output["num_items_in_batch"] == output["completion_mask"].sum()

    earned = torch.tensor(list(next(iter(logs["rewards"].values()))))
    groups = earned.view(-1, 2)
    expected = groups - groups.mean(dim=1, keepdim=True)
    if settings.get("scale_rewards", "group") == "group" and "multi_objective_aggregation" not in settings:
        expected = expected / (groups.std(dim=1, keepdim=True) + 1e-4)
    if settings.get("scale_rewards") == "batch":
        expected = expected / (earned.std() + 1e-4)
    if "multi_objective_aggregation" in settings:
        each = expected / (groups.std(dim=1, keepdim=True) + 1e-4) * weights.sum()
        expected = (each - each.mean()) / (each.std() + 1e-4)
    torch.testing.assert_close(output["advantages"], expected.flatten())


def test_figures_are_of_the_first_draw_and_all_groups_are_counted(tiny_folder, tmp_path):
    plain = make(tiny_folder, tmp_path, dynamic_sampling=False, max_steps=1)
    plain.train()
    calls = []
    trainer = make(tiny_folder, tmp_path, lambda **all: calls.append(all["prompts"]) or odd_reward(**all), max_steps=1)
    trainer.reward_func_names = plain.reward_func_names
    trainer.train()
    ours, theirs = (each.state.log_history[0] for each in (trainer, plain))
    first_draw = [name for name in theirs if name.startswith(("reward", "completions/", "zero_spread"))]
    assert {name: ours[name] for name in first_draw} == {name: theirs[name] for name in first_draw}
    assert ours["frac_reward_zero_std"] < theirs["frac_reward_zero_std"]
    assert ours["groups_drawn"] == sum(len(each) for each in calls) / 2
    assert 4 < ours["groups_drawn"] <= 4 * (1 + 3)
    assert ours["groups_kept"] == 4 * (1 - ours["frac_reward_zero_std"])
    assert ours["num_tokens"] > theirs["num_tokens"]
    seen = [prompt[0]["content"] for each in calls for prompt in each[::2]]
    assert len(set(seen)) == len(seen), "every prompt of a rollout is a new one while there are such"


@pytest.mark.parametrize("rows", [MANY, ROWS.select(range(4))], ids=["fresh prompts", "no other prompts"])
def test_what_cannot_be_replaced_stays(tiny_folder, tmp_path, rows):
    trainer = make(tiny_folder, tmp_path, lambda completions, **_: [1.0] * len(completions), train_dataset=rows)
    before = weights_of(trainer)
    trainer.train()
    assert {row["groups_drawn"] for row in trainer.state.log_history[:-1]} == {16.0}
    assert {row["groups_kept"] for row in trainer.state.log_history[:-1]} == {0.0}
    assert_identical(before, weights_of(trainer))


def test_groups_that_are_masked_as_a_whole_are_replaced(tiny_folder, tmp_path):
    trainer = make(tiny_folder, tmp_path, mask_truncated_completions=True)
    end = trainer._tokenizer.eos_token_id
    completions = [type("Row", (), {"completion_ids": ids}) for ids in ([50], [51], [50], [51, end])]
    assert trainer._teaches(completions, torch.tensor([[0.0], [1], [0], [1]])) == [False, True]


def test_an_evaluation_replaces_nothing(tiny_folder, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "per_device_eval_batch_size": 8}
    trainer = make(tiny_folder, tmp_path, eval_dataset=ROWS, **settings)
    trainer.train()
    row = next(row for row in trainer.state.log_history if "eval_reward" in row)
    assert row["eval_zero_spread_share"] >= 0.5
    assert "eval_groups_drawn" not in row


KILLED = {
    "between rollouts": {"save_steps": 2},
    "inside a rollout": {
        "save_steps": 3,
        "num_iterations": 2,
        "steps_per_generation": 2,
        "per_device_train_batch_size": 4,
    },
    "second epoch": {"save_steps": 3, "train_dataset": MANY.select(range(8))},
    "second epoch, solved prompts": {"save_steps": 3, "train_dataset": ROWS, "skip_solved": 1, "reward": solved_reward},
    "third epoch, solved prompts alone": {
        "save_steps": 4,
        "train_dataset": ROWS,
        "skip_solved": 1,
        "reward": solved_reward,
    }
    | {"dynamic_sampling": False},
}


@pytest.mark.parametrize("settings", KILLED.values(), ids=KILLED)
def test_resume_after_sigkill_is_bit_identical(tiny_folder, tmp_path, settings):
    settings = {"save_strategy": "steps", **settings}
    undisturbed = make(tiny_folder, tmp_path / "undisturbed", **settings)
    undisturbed.train()
    kill(lambda callbacks: make(tiny_folder, tmp_path / "killed", callbacks=callbacks, **settings), 4)
    resumed = make(tiny_folder, tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(tmp_path / "killed")))
    assert_identical(weights_of(undisturbed), weights_of(resumed))
    assert without_times(undisturbed.state.log_history) == without_times(resumed.state.log_history)
    if settings.get("dynamic_sampling", True):
        assert max(row.get("groups_drawn", 0) for row in resumed.state.log_history) > 4


def test_a_stop_while_groups_are_replaced_resumes_exactly(tiny_folder, tmp_path):
    undisturbed = make(tiny_folder, tmp_path / "undisturbed", max_steps=4)
    undisturbed.train()
    calls = []

    def mortal(**columns):
        calls.append(len(columns["prompts"]))
        if stopping and len(calls) > 5 and calls[-1] < 8:
            raise StopTraining("the judge is gone.")
        return odd_reward(**columns)

    mortal.__name__, stopping = "odd_reward", True
    stopped = make(tiny_folder, tmp_path / "stopped", mortal, max_steps=4)
    with pytest.raises(StopTraining, match="the judge is gone"):
        stopped.train()
    assert 0 < stopped.state.global_step < 4
    stopping = False
    resumed = make(tiny_folder, tmp_path / "stopped", mortal, max_steps=4)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(tmp_path / "stopped")))
    assert_identical(weights_of(undisturbed), weights_of(resumed))
    assert without_times(undisturbed.state.log_history) == without_times(resumed.state.log_history)


@pytest.mark.parametrize(
    ("rollouts", "streaks"),
    [
        ([[[0.0, 0.0], [0.0, 0.0]]], {"a": 0, "b": 0}),
        ([[[1.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]], {"a": 2, "b": 1}),
        ([[[1.0, 1.0], [0.0, 1.0]], [[1.0, 0.5], [1.0, 1.0]]], {"a": 0, "b": 1}),
        ([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [2.0, 2.0]]], {"a": 0, "b": 1}),
        ([[[1.0, NAN], [0.0, 1.0]]], {"a": 0, "b": 0}),
    ],
    ids=["nobody earned more", "twice and once", "not any more", "a higher total than ever", "None"],
)
def test_which_visits_solve_a_prompt(rollouts, streaks):
    solved = SolvedPrompts(needed=1)
    for rewards in rollouts:
        solved.note(["a", "b"], torch.tensor(rewards))
    assert solved.streaks == streaks


def test_a_solved_prompt_is_left_out_for_one_epoch(caplog):
    solved = SolvedPrompts(needed=2, streaks={"a": 2, "b": 1, "c": 3})
    rows = ["a", "b", "c", "b", "a"]
    assert [solved.leave_out(epoch, rows, batch=1) for epoch in (0, 0, 1, 2)] == [
        {0, 2, 4},
        {0, 2, 4},
        set(),
        {0, 2, 4},
    ]
    assert not caplog.text
    assert SolvedPrompts(needed=2, streaks={"a": 2}).leave_out(7, rows, batch=3) == set()
    assert "epoch 8 leaves out none of the solved prompts (1): only 2 others would be left" in caplog.text


@pytest.mark.parametrize("kind", [{}, {"kinds": (EmpathyPPOTrainer, PPOConfig)}], ids=["GRPO", "PPO"])
def test_other_prompts_take_the_places_of_solved_ones(tiny_folder, tmp_path, caplog, kind):
    seen = []
    reward = lambda prompts, **rest: seen.append(prompts[::2]) or solved_reward(prompts, **rest)
    settings = {"dynamic_sampling": False, "skip_solved": 1, "train_dataset": ROWS, "max_steps": 6} | kind
    trainer = make(tiny_folder, tmp_path, reward, **settings)
    trainer.train()
    numbers = [int(prompt[0]["content"].split()[1]) for prompts in seen for prompt in prompts]
    first, second, third = (sorted(numbers[start : start + 8]) for start in (0, 8, 16))
    assert first == third == list(range(8))
    assert second == [1, 1, 3, 3, 5, 5, 7, 7]
    assert [row["prompts_skipped"] for row in trainer.state.log_history[:-1]] == [0, 0, 4, 4, 0, 0]
    assert trainer.state.epoch == 3 and "skip_solved" not in caplog.text
    make(tiny_folder, tmp_path, reward, **settings | {"max_steps": 2}).train()
    assert "skip_solved: 1 leaves out nothing in this run of 1 epoch(s)" in caplog.text


@pytest.mark.faults
def test_a_schedule_of_weights_does_not_go_with_solved_prompts(tiny_folder, tmp_path):
    with pytest.raises(UserError, match="^trainer.skip_solved: 1 compares the total rewards .* a schedule"):
        make(tiny_folder, tmp_path, weights=[WeightSchedule(0.0, 1.0, 0.5)], dynamic_sampling=False, skip_solved=1)


def test_replaced_groups_do_not_count_as_rollouts_without_signal(tiny_folder, tmp_path):
    def reward(prompts, **columns):
        return [None] * len(prompts) if len(prompts) < 8 else [0.0] * len(prompts)

    trainer = make(tiny_folder, tmp_path, reward, max_steps=2, max_resampling=4)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (EmpathyGRPOConfig, {"max_resampling": 2}, "^max_resampling: 2 has no effect without dynamic_sampling: true$"),
        (
            EmpathyGRPOConfig,
            {"dynamic_sampling": True, "max_resampling": 0},
            "^max_resampling: 0 should be at least 1$",
        ),
        (EmpathyGRPOConfig, {"skip_solved": 0}, "^skip_solved: 0 should be at least 1$"),
        (EmpathyGRPOConfig, {"skip_solved": 1.5}, "^skip_solved: 1.5 should be a whole number$"),
        (EmpathyGRPOConfig, {"dynamic_sampling": "no"}, "^dynamic_sampling: 'no' should be True or False$"),
        (PPOConfig, {"dynamic_sampling": True}, "^dynamic_sampling: true is for GRPO; PPO's advantages come from"),
    ],
    ids=["no effect", "never", "no visit", "half a visit", "text", "PPO"],
)
def test_refused_settings(tmp_path, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(str(tmp_path), bf16=False, **settings)


@pytest.mark.faults
def test_groups_that_span_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(EmpathyGRPOConfig, "world_size", 2)
    settings = {"bf16": False, "num_generations": 8, "per_device_train_batch_size": 4, "dynamic_sampling": True}
    message = "^dynamic_sampling: true needs whole groups in each of the 2 processes, which generates 4 completions .* of num_generations, 8$"
    with pytest.raises(ValueError, match=message):
        EmpathyGRPOConfig(str(tmp_path), gradient_accumulation_steps=1, **settings)
    EmpathyGRPOConfig(str(tmp_path), gradient_accumulation_steps=2, **settings)


@pytest.mark.faults
def test_an_iterable_data_set_is_refused(tiny_folder, tmp_path):
    with pytest.raises(UserError, match="^trainer.dynamic_sampling: true does not work with an iterable train_dataset"):
        make(tiny_folder, tmp_path, train_dataset=MANY.to_iterable_dataset())


TWO_PROCESSES = """
import gc
import sys
from pathlib import Path
from tests.trainers.test_dynamic_sampling import make, solved_reward
from empathy_trl.engine import join_processes
import torch.distributed as dist

join_processes()
settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "skip_solved": 1}
trainer = make(sys.argv[1], sys.argv[2], solved_reward, use_cpu=True, **settings)
assert trainer.accelerator.num_processes == 2
checkpoint = Path(sys.argv[2], "checkpoint-4") if sys.argv[3] == "resume" else None
trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
rows = trainer.state.log_history[:-1]
assert all(row["groups_kept"] == 8 * (1 - row["frac_reward_zero_std"]) for row in rows), rows
assert max(row["groups_kept"] for row in rows) > 6, rows
assert sum(row["prompts_skipped"] > 8 for row in rows) == 3, rows
trainer.save_model(Path(sys.argv[2], sys.argv[3]))
del trainer
gc.collect()  # DDP's threads end before the interpreter does, as after a stage of run.py
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_replace_groups_together_and_resume_exactly(tiny_folder, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    for session in ("whole", "resume"):
        command = [*launch, str(tiny_folder), str(tmp_path / "run"), session]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)
    left, right = ((tmp_path / "run" / session / "model.safetensors").read_bytes() for session in ("whole", "resume"))
    assert left == right

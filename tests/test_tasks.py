"""Task -> trainer."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from empathy_trl import tasks
from empathy_trl.check import describe
from empathy_trl.data.sources import Source
from empathy_trl.engine import Engine
from empathy_trl.errors import Terminated, UserError
from empathy_trl.io import json_or_none
from empathy_trl.models.classifier import new_classifier
from empathy_trl.models.label_schema import Targets
from empathy_trl.models.load import load_model
from empathy_trl.recipe import load_recipe, load_seeds
from empathy_trl.recipe.provenance import NOT_COMPARED, check_precision, check_used, settings_in_use
from empathy_trl.recipe.stages import stage_runs
from empathy_trl.tasks import TASKS, train_stage, unused_rows
from empathy_trl.trainers import NonFiniteLoss
from empathy_trl.trainers.callbacks import METRICS_FILE, MetricsLog, logged_rows
from tests.recipes.scripts import ROOT, without_pictures


def test_the_seed_alone_decides_the_weights_of_an_adapter_on_an_encoder(tmp_path):
    scratch = SimpleNamespace(architecture="roberta", hidden_size=16, layers=1, heads=2, vocab_size=300, max_length=32)
    base = new_classifier(
        SimpleNamespace(from_scratch=scratch), Targets("classify", {"x": ("a", "b")}), seed=0, texts=["hello"]
    )
    for part in base:
        part.save_pretrained(tmp_path / "base")

    def first_weight(seed, drawn_before):
        torch.rand(drawn_before)  # by an earlier stage of the same run, or nothing where that one was skipped
        overrides = ["--model.name_or_path", str(tmp_path / "base"), "--trainer.max_length", "32"]
        overrides += ["--trainer.bf16", "false", "--seed", str(seed)]
        run = stage_runs(load_recipe("wassa_reward", overrides, training=False), tmp_path / "out")["turns"]
        trainer = TASKS["regress"].build(run)
        return next(weight for name, weight in trainer.model.named_parameters() if "lora_A" in name)

    assert torch.equal(first_weight(1, 0), first_weight(1, 5))
    assert not torch.equal(first_weight(1, 0), first_weight(2, 0))


@pytest.mark.faults
@pytest.mark.parametrize("recipe, stage", [("ed4_tiny", "sft"), ("godel_tiny", "sft"), ("intent9_tiny", "classify")])
def test_a_loss_that_is_not_finite_stops_every_task_before_the_weights_change(recipe, stage, tmp_path):
    settings = {
        "learning_rate": 1e30,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "per_device_train_batch_size": 2,
    }
    run = stage_runs(load_recipe(recipe, [f"--stages.{stage}.trainer", json.dumps(settings)]), tmp_path)[stage]
    with pytest.raises(
        NonFiniteLoss, match=r"step 2: the (loss|gradient norm) is nan.*checkpoint-1\. Lower trainer.learning_rate"
    ):
        train_stage(run)
    assert json_or_none(run.folder / "run.json")["status"] == "running"
    weights = load_file(run.folder / "checkpoint-1" / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.faults
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adam_beta1": 1.5}, "Invalid beta parameter at index 0: 1.5"),
        ({"optim": "galore_adamw"}, "You need to install `galore_torch`"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "One of min_lr or min_lr_rate should be set"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, "trainer.lr_scheduler_kwargs: .*unexpected keyword argument 'cycles'"),
    ],
)
def test_what_optimizer_and_schedule_refuse_is_told_before_the_training(settings, message, tmp_path):
    run = stage_runs(load_recipe("ed4_tiny", ["--stages.sft.trainer", json.dumps(settings)]), tmp_path)["sft"]
    with pytest.raises(UserError, match=f"stages.sft: the trainer refuses these settings: {message}"):
        train_stage(run)


@pytest.mark.faults
def test_processes_wait_for_each_other_as_long_as_the_stage_with_the_longest_timeout_says(tmp_path, monkeypatch):
    limit = Mock(side_effect=UserError("limited"))
    monkeypatch.setattr(tasks, "set_timeout", limit)
    for overrides, seconds in ([], 1800), (["--stages.sft.trainer.ddp_timeout", "7200"], 7200):
        with pytest.raises(UserError, match="limited"):
            tasks.run_recipe("ed4_tiny", overrides, output_dir=tmp_path)
        limit.assert_called_with(seconds)


@pytest.mark.faults
def test_a_layer_of_the_head_takes_no_adapter(tmp_path):
    config = DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=2, hidden_dim=8, num_labels=2)
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS")
    with pytest.raises(
        UserError, match="model.lora.target_modules: 'all-linear' has a layer of the head, which is trained in full"
    ):
        tasks._with_adapter(DistilBertForSequenceClassification(config), lora, seed=0)


@pytest.mark.faults
def test_what_became_of_the_rows_is_noted_before_training_and_stands_in_the_card(tmp_path, caplog):
    overrides = ["--stages.grpo", "null", "--trainer.max_length", "72", "--stages.sft.trainer.max_steps", "1"]
    (run,) = stage_runs(load_recipe("ed4_tiny", overrides), tmp_path).values()
    assert len(TASKS["sft"].build(run).train_dataset) == 140 - 27
    train_stage(run)
    rows = json_or_none(run.folder / "run.json")["rows"]["train"]
    assert rows["data"] == {"read": 560, "dropped": {}, "used": 140, "shortened": 0, "skipped": 0, "notes": {}}
    assert rows["tokens"]["dropped"] == 27 and rows["tokens"]["completions"] == 106
    assert "max_length 72 cuts 0 prompts and 106 completions, and drops 27 of 140 rows" in caplog.text
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    assert "- train: 560 read, 0 dropped, 140 used, 0 shortened; max_length 72 cuts " in card


@pytest.mark.faults
def test_prompts_that_lose_turns_to_fit_into_the_model_are_counted(tmp_path, caplog):
    overrides = ["--model.from_scratch.max_length", "200", "--evaluation.max_new_tokens", "9", "--stages.grpo", "null"]
    (run,) = stage_runs(load_recipe("empath_tiny", overrides), tmp_path).values()
    rows = TASKS["sft"].build(run).train_dataset
    assert len(rows) == 150 and max(map(len, rows["input_ids"])) <= 200
    note = "117 prompts lose their oldest turns, because the model has 200 positions"
    assert run.rows["train"]["prompts_cut"] == 117 and run.rows["train"]["summary"].endswith(note)
    assert note in caplog.text


@pytest.mark.faults
def test_rows_without_a_pair_and_rows_that_fill_no_batch_are_counted():
    rows = Dataset.from_dict({"context": ["a", "a", "b", "c", "c"], "labels": [[1.0], [2.0], [3.0], [4.0], [4.0]]})
    pairwise, other = (SimpleNamespace(name="x", stage=SimpleNamespace(is_pairwise=value)) for value in (True, False))
    assert unused_rows(pairwise, None, rows) == ["3 of 5 replies are in no pair"]
    config = SimpleNamespace(dataloader_drop_last=True, train_batch_size=2, world_size=1)
    assert unused_rows(other, config, rows) == ["every epoch leaves out 1 of 5 rows, which do not fill a batch of 2"]
    with pytest.raises(
        UserError, match="^stages.x: a batch needs 2 rows, but only 1 can be used, .*dataloader_drop_last: false"
    ):
        unused_rows(other, config, rows, dropped=4)
    config.dataloader_drop_last = False
    assert unused_rows(other, config, rows) == []


TWO_ADAPTERS = """
task: sft
data: {{name: ed4, path: sample}}
trainer: {{bf16: false, gradient_checkpointing: false, max_steps: 1, save_strategy: "no"}}
stages:
  sft:
    model: {{name_or_path: {base}, lora: {{r: 4, alpha: 8, dropout: 0.0}}}}
  grpo:
    task: grpo
    model: {{name_or_path: "stage:sft"}}
    rewards: {{format: {{}}}}
    trainer: {{num_generations: 2}}
"""


@pytest.fixture(scope="module")
def an_adapter(tiny_folder, tmp_path_factory):
    """A recipe of two stages, and the folder of its run, in which the first one has left an adapter that says something."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "two.yaml").write_text(TWO_ADAPTERS.format(base=tiny_folder))
    trainer = TASKS["sft"].build(stage_runs(load_recipe(folder / "two.yaml"), folder)["sft"])
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    trainer.save_model(str(folder / "sft"))
    return folder


def test_a_cpu_chooses_the_dtype_of_the_weights_under_an_adapter(an_adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("empathy_trl.models.load.faster_dtype", lambda width: "bfloat16")
    run = stage_runs(load_recipe(an_adapter / "two.yaml"), tmp_path)["sft"]
    train_stage(run)
    assert "[sft] the weights under the adapter are in bfloat16: dtype auto chose it" in capsys.readouterr().out
    assert run.read_folder().record["dtype"] == "bfloat16" == str(run.load_model()[0].dtype).removeprefix("torch.")
    assert {each.dtype for each in load_file(run.folder / "adapter_model.safetensors").values()} == {torch.float32}
    # a resume does not choose again, and does not cast what an older version left as it was
    monkeypatch.setattr("empathy_trl.models.load.faster_dtype", lambda width: "float16")
    monkeypatch.setattr(tasks, "last_checkpoint", lambda folder: folder)
    for expected in ("bfloat16", "float32"):
        model = TASKS["sft"].build(run).model.get_base_model()
        assert str(model.dtype) == f"torch.{expected}"
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
        (run.folder / "run.json").unlink(missing_ok=True)


SAME = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("lora", "plan", "rank", "is_merged"),
    [
        (None, "that of stage:sft (rank 4) is trained further", 4, False),
        ({"r": 4, "alpha": 8, "dropout": 0}, "that of stage:sft (rank 4) is trained further", 4, False),
        ({"r": 4, "alpha": 8, "dropout": 0, "target_modules": SAME}, "(rank 4) is trained further", 4, False),
        ({"r": 16}, "merged, and a new one is trained (r 4 → 16, alpha 8 → 32, dropout 0.0 → 0.05)", 16, True),
        (
            {"r": 4, "alpha": 8, "dropout": 0, "target_modules": ["q_proj"]},
            "a new one is trained (target_modules all-linear → [q_proj])", 4, True,
        ),
    ],
)  # fmt: skip
def test_a_second_adapter_is_what_the_recipe_says(an_adapter, tmp_path, lora, plan, rank, is_merged):
    shutil.copytree(an_adapter / "sft", tmp_path / "out" / "sft")
    recipe = load_recipe(an_adapter / "two.yaml", ["--stages.grpo.model.lora", json.dumps(lora)] if lora else [])
    assert plan in describe(recipe, tmp_path / "out")
    run = stage_runs(recipe, tmp_path / "out")["grpo"]
    tokens = torch.tensor([[5, 60, 61, 62]])
    for _ in range(2):  # the second time as after a crash
        trainer = TASKS["grpo"].build(run)
        adapter = trainer.model.peft_config["default"]
        assert adapter.r == rank and (run.folder / "merged_base").is_dir() == is_merged
        earlier, _ = load_model(tmp_path / "out" / "sft")
        with torch.no_grad():  # a new adapter says nothing yet
            assert torch.allclose(trainer.model(tokens).logits, earlier(tokens).logits, atol=1e-5)
    trainer.save_model(str(run.folder))
    run.folder.rename(tmp_path / "moved")
    again, _ = load_model(tmp_path / "moved")
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, earlier(tokens).logits, atol=1e-5)


def leaves(content: dict, path: tuple = ()):
    for key, value in content.items():
        if isinstance(value, dict) and value and "start" not in value:  # a schedule is one value
            yield from leaves(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


TINY = sorted(path.stem for path in (ROOT / "recipes").glob("*_tiny.yaml"))
UNTRAINED = [f"--stages.ppo.rewards.reward_model.{flag}" for flag in ("label_range=[0, 1]", "min_held_out=null")]


@pytest.mark.faults
@pytest.mark.parametrize("name", TINY)
def test_every_key_of_a_recipe_is_compared_with_what_is_used(name, tmp_path):
    for run in stage_runs(load_recipe(name, UNTRAINED if name == "godel_tiny" else []), tmp_path).values():
        trainer = TASKS[run.task].build(run)
        check_used(run.resolved, trainer)
        compared = settings_in_use(run.resolved, trainer)
        rest = [
            key
            for key, value in leaves(run.stage.resolved())
            if key not in compared and value not in (None, "auto", {})
        ]
        assert [key for key in rest if not any(f"{key}.".startswith(f"{each}.") for each in NOT_COMPARED)] == []
        trainer.save_model(str(run.folder))


@pytest.fixture(scope="module")
def built(tiny_folder, tmp_path_factory):
    """A stage of GRPO, and its trainer."""
    model = f"{{name_or_path: {tiny_folder}, from_scratch: null, dtype: float32, attn_implementation: sdpa, lora: {{r: 4}}}}"
    flags = [
        "--stages.sft",
        "null",
        "--stages.grpo.model",
        model,
        "--stages.grpo.trainer.epsilon",
        "0.3",
        "--stages.grpo.trainer.num_iterations",
        "2",
    ]
    run = stage_runs(load_recipe("ed4_tiny", flags), tmp_path_factory.mktemp("built"))["grpo"]
    return run, TASKS["grpo"].build(run)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("place", "attribute", "value", "message"),
    [
        ("args", "learning_rate", 1.0, "trainer.learning_rate: the recipe says 0.0003, but 1.0 is used"),
        ("args", "lr_scheduler_type", "linear", "trainer.lr_scheduler_type: the recipe says 'cosine', but 'linear' is used"),
        ("args", "seed", 7, "seed: the recipe says 42, but 7 is used"),
        ("", "beta", 0.0, "trainer.beta: the recipe says 0.01, but 0.0 is used"),
        ("", "epsilon_low", 0.2, "trainer.epsilon: the recipe says 0.3, but 0.2 is used"),
        ("", "weight_schedules", [1.0, 0.3, 1.0], "rewards.reasoning_length.weight: the recipe says 0.3, but 1.0 is used"),
        ("accelerator.state", "_mixed_precision", "bf16", "trainer.bf16: the recipe says false, but true is used"),
        ("model.config", "_attn_implementation", "eager", "attn_implementation: the recipe says 'sdpa', but 'eager' is used"),
        ("model.peft_config.default", "r", 8, "model.lora.r: the recipe says 4, but 8 is used"),
    ],
)  # fmt: skip
def test_a_setting_that_is_not_used_stops_before_the_training(built, monkeypatch, place, attribute, value, message):
    run, trainer = built
    check_used(run.resolved, trainer)
    target = trainer
    for part in filter(None, place.split(".")):
        target = target[part] if isinstance(target, dict) else getattr(target, part)
    monkeypatch.setattr(target, attribute, value)
    with pytest.raises(UserError, match=re.escape(f"stages.grpo.{message}".replace("grpo.attn", "grpo.model.attn"))):
        check_used(run.resolved, trainer)


@pytest.mark.faults
def test_float32_under_zero3_is_what_its_optimizer_holds(built, monkeypatch):
    run, trainer = built
    base = trainer.model.get_base_model()
    monkeypatch.setattr(type(base), "dtype", torch.bfloat16)
    with pytest.raises(UserError, match="model.dtype: the recipe says 'float32', but 'bfloat16' is used"):
        check_used(run.resolved, trainer)
    monkeypatch.setattr(next(base.parameters()), "ds_id", 0, raising=False)
    check_used(run.resolved, trainer)


@pytest.mark.parametrize(
    "settings",
    [
        {"scale_rewards": False, "include_num_input_tokens_seen": True, "report_to": "none", "optim": "adafactor"},
        {"scale_rewards": True, "save_strategy": "epoch", "warmup_steps": 0.1, "logging_steps": 0.5},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr": 0.1}', "debug": "underflow_overflow"},
        {"accelerator_config": {"split_batches": False}, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"generation_kwargs": {"top_k": 5}, "epsilon_high": None, "top_p": 0.9, "min_p": 0.1, "disable_dropout": True},
        {"use_transformers_continuous_batching": False, "max_grad_norm": 1, "mask_truncated_completions": True},
    ],
)  # fmt: skip
def test_what_a_config_class_calls_by_another_name_is_the_same(tiny_folder, tmp_path, settings):
    flags = ["--stages.sft", "null", "--stages.grpo.model", f"{{name_or_path: {tiny_folder}, from_scratch: null}}"]
    recipe = load_recipe("ed4_tiny", [*flags, "--stages.grpo.trainer", json.dumps(settings)])
    run = stage_runs(recipe, tmp_path)["grpo"]
    check_used(run.resolved, TASKS["grpo"].build(run))


@pytest.mark.faults
def test_a_launcher_that_replaces_the_precision_is_refused_for_all_stages(built):
    run, _ = built
    check_precision(run.recipe, Engine(precision="no"))
    check_precision(load_recipe("ed4_tiny", ["--trainer.bf16", "true"]), Engine(precision="bf16"))
    flags = "--stages.sft.trainer.bf16 true --stages.grpo.trainer.bf16 true"
    message = (
        f"sft.trainer.bf16: the recipe says false, but true is used\n.*--mixed_precision no, or for the recipe {flags}$"
    )
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
        check_precision(load_recipe("ed4_tiny"), Engine(precision="bf16"))


@pytest.mark.faults
def test_an_engine_that_accelerate_does_not_use_stops_before_the_training(built, monkeypatch):
    run, trainer = built
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="the launcher asks for FSDP2, but accelerate does not use it here"):
        check_used(run.resolved, trainer)


@pytest.mark.faults
def test_a_chat_template_from_a_file_that_refuses_the_rows_is_told(tmp_path):
    (tmp_path / "strict.jinja").write_text("{{ raise_exception('nobody may speak') }}")
    overrides = ["--stages.grpo", "null", "--stages.sft.trainer.chat_template_path", str(tmp_path / "strict.jinja")]
    run = stage_runs(load_recipe("empath_tiny", overrides), tmp_path / "out")["sft"]
    with pytest.raises(UserError, match="stages.sft: the chat template refuses the messages: nobody may speak"):
        tasks._trainer(run, None, None)


def tiny(architecture, **settings):
    """Return a `model:` section."""
    shape = {"architecture": architecture, "hidden_size": 16, "layers": 1, "heads": 2, "vocab_size": 300}
    return {"from_scratch": shape | settings}


PLAIN = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 0.01,
         "bf16": False, "disable_tqdm": True}  # fmt: skip
LABELS = PLAIN | {"save_strategy": "steps", "eval_steps": 2, "max_length": 64}
# the last checkpoint that is left, after step 3, lies inside a rollout
ROLLOUTS = PLAIN | {"num_generations": 2, "num_iterations": 2, "max_completion_length": 6, "save_steps": 1}
REWARDS = {"length": {"min": 1, "max": 3}, "distinct": {}}
ENCODER, T5 = tiny("roberta", max_length=64), {"chat_template": "godel"}
STAGES = {
    "sft": {"task": "sft", "model": tiny("qwen2"), "trainer": PLAIN},
    "t5": {"task": "sft", "model": tiny("t5") | T5, "trainer": PLAIN},
    "classify": {"task": "classify", "model": ENCODER, "data": {"name": "emotions"}, "trainer": LABELS},
    "regress": {"task": "regress", "model": ENCODER, "data": {"name": "wassa", "split_by": "row"}, "trainer": LABELS},
    "pairs": {"task": "regress", "model": ENCODER, "data": {"name": "rated_replies", "ranges": {"empathy": [1, 5]}},
              "trainer": LABELS | {"objective": "pairwise"}},
    "grpo": {"task": "grpo", "model": {"name_or_path": "stage:sft"}, "rewards": REWARDS, "trainer": ROLLOUTS},
    "ppo": {"task": "ppo", "model": {"name_or_path": "stage:sft"}, "rewards": REWARDS, "trainer": ROLLOUTS},
    "t5_ppo": {"task": "ppo", "model": {"name_or_path": "stage:t5"} | T5, "rewards": REWARDS, "trainer": ROLLOUTS},
}  # fmt: skip
SOME = ["sft", "grpo"]  # a trainer of transformers and one of ours
TWO_PROCESSES = """
import sys
from pathlib import Path
from empathy_trl.engine import join_processes, part_processes
from tests.recipes.scripts import without_pictures
from tests.test_tasks import SOME, interrupted, train
from pytest import MonkeyPatch
without_pictures(MonkeyPatch())
process, home = join_processes(), Path(sys.argv[1])
train(home / "recipe.yaml", home / "two")
if process.is_main_process:
    interrupted(home / "two", home / "same")
    interrupted(home / "two", home / "fewer", SOME)
process.wait_for_everyone()
train(home / "recipe.yaml", home / "same")
train(home / "recipe.yaml", home / "more", SOME)
part_processes()
"""


def train(recipe, folder, stages=STAGES):
    """Train stages in this process, or in all that have been joined."""
    for name, run in stage_runs(load_recipe(recipe), folder).items():
        if name in stages:
            train_stage(run)


def interrupted(folder, to, stages=STAGES):
    """Copy a run as if these of its stages had been killed in the last step."""
    shutil.copytree(folder, to)
    for name in stages:
        (to / name / "model.safetensors").unlink()
        shutil.rmtree(to / name / "checkpoint-4")
        record = json.loads((to / name / "run.json").read_text())
        (to / name / "run.json").write_text(json.dumps(record | {"status": "running"}))


def identical(left, right, stages=STAGES):
    """Return the stages whose last weights are the same, bit for bit."""
    files = {name: [each / name / "checkpoint-4/model.safetensors" for each in (left, right)] for name in stages}
    return [name for name, (one, other) in files.items() if one.read_bytes() == other.read_bytes()]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("recipe", "stage", "key"), [("wassa_reward_tiny", "turns", ""), ("ed4_tiny", "sft", "stages.sft.")]
)
@pytest.mark.parametrize(
    ("killed_at", "by"),
    [
        (4, KeyboardInterrupt),  # before a row is logged
        (5, KeyboardInterrupt),  # after the last checkpoint
        (3, Terminated),  # by SIGTERM, between two checkpoints
    ],
)
def test_a_resume_has_the_steps_losses_and_best_checkpoint_of_the_whole_run(
    recipe, stage, key, killed_at, by, tmp_path, monkeypatch
):
    settings = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3, "warmup_steps": 0}
    settings |= {"per_device_train_batch_size": 8, "lr_scheduler_type": "constant"}
    if stage == "turns":  # the first checkpoint is the "best", and another one the last
        settings |= {"metric_for_best_model": "loss", "greater_is_better": True, "save_total_limit": 1}

    def run(folder):
        return stage_runs(load_recipe(recipe, [f"--{key}trainer", json.dumps(settings)]), tmp_path / folder)[stage]

    def killed(log, args, state, control, **kwargs):
        if state.global_step == killed_at and by is KeyboardInterrupt:
            raise KeyboardInterrupt
        if state.global_step == killed_at:
            os.kill(os.getpid(), signal.SIGTERM)

    train_stage(run("whole"))
    with monkeypatch.context() as patched, pytest.raises(by):
        patched.setattr(MetricsLog, "on_step_end" if killed_at < 5 else "on_train_end", killed)
        train_stage(run("killed"))
    assert by is KeyboardInterrupt or run("killed").read_folder().checkpoint.name == f"checkpoint-{killed_at}"
    (tmp_path / "killed").rename(tmp_path / "moved")
    train_stage(run("moved"))
    whole, moved = tmp_path / "whole" / stage, tmp_path / "moved" / stage
    assert (whole / "model.safetensors").read_bytes() == (moved / "model.safetensors").read_bytes()
    shown = ("step", "loss", "train_loss", "num_tokens", "entropy", "mean_token_accuracy")
    rows = [
        [{name: row.get(name) for name in shown} for row in logged_rows(each / METRICS_FILE)] for each in (whole, moved)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("stage", ["sft", "t5", "classify", "grpo"])
def test_every_trainer_draws_rows_by_their_weights_and_resumes_exactly(stage, tmp_path, monkeypatch):
    read = Source.split

    def weighted(source, split, *advice):
        table = read(source, split, *advice)
        for number, row in enumerate(table.rows):
            row.cells["row_weight"] = number % 3
        return table

    monkeypatch.setattr(Source, "split", weighted)
    keys = STAGES[stage] | {
        "data": {"portion": [0, 0.02]} | STAGES[stage].get("data", {"name": "ed4"}) | {"path": "sample"}
    }
    keys["model"] = STAGES["sft"]["model"] if stage == "grpo" else keys["model"]
    keys |= {} if stage == "classify" else {"evaluation": {"max_new_tokens": 8}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"stages": {stage: keys}}))
    (run,) = stage_runs(load_recipe(recipe), tmp_path / "out").values()
    sampler = TASKS[keys["task"]].build(run)._get_train_sampler()
    weights = run.dataset("train")["row_weight"]
    assert "with a row_weight other than 1" in run.rows["train"]["summary"]
    assert 4 <= len(weights) == sampler.num_samples < 16
    sampler.set_epoch(1)
    assert {weights[row] for row in sampler} == {1, 2}
    train(recipe, tmp_path / "whole", [stage])
    interrupted(tmp_path / "whole", tmp_path / "same", [stage])
    train(recipe, tmp_path / "same", [stage])
    assert identical(tmp_path / "whole", tmp_path / "same", [stage]) == [stage]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("setting", "is_pairwise"),
    [({"packing": True}, False), ({"train_sampling_strategy": "group_by_length"}, False), ({}, True)],
)
def test_weights_that_a_training_would_not_heed_are_refused(setting, is_pairwise):
    rows = Dataset.from_dict({"row_weight": [1.0, 2.0]})
    run = SimpleNamespace(name="x", stage=SimpleNamespace(is_pairwise=is_pairwise))
    with pytest.raises(
        UserError, match="^stages.x.trainer.* does not work with the data's column row_weight, which needs"
    ):
        unused_rows(run, SimpleNamespace(**setting), rows)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [("FSDP2", "DDP", True), ("ZeRO-2", "ZeRO-3", True), ("one process", "DDP", False), (None, "FSDP2", False)],
)
def test_a_checkpoint_of_another_engine_is_refused(before, now, refused, tmp_path, monkeypatch):
    run = stage_runs(load_recipe("ed4_tiny"), tmp_path)["sft"]
    folder = SimpleNamespace(record={"engine": before} if before else {}, checkpoint=tmp_path / "checkpoint-2")
    monkeypatch.setattr(tasks.Engine, "here", lambda trainer: SimpleNamespace(name=now))
    if not refused:
        assert tasks._checked_engine(run, folder) == now
        return
    with pytest.raises(
        UserError, match=f"checkpoint-2 was saved under {before}, whose optimizer state {now} cannot read"
    ):
        tasks._checked_engine(run, folder)


@pytest.mark.faults
def test_zero_resumes_with_as_many_processes_only(tmp_path, monkeypatch):
    run = stage_runs(load_recipe("ed4_tiny"), tmp_path)["sft"]
    monkeypatch.setattr(tasks.Engine, "here", lambda trainer: SimpleNamespace(name="ZeRO-3"))
    folder = SimpleNamespace(record={"engine": "ZeRO-3"}, checkpoint=tmp_path)
    for process in range(2):
        assert process == 0 or tasks._checked_engine(run, folder) == "ZeRO-3"
        (tmp_path / f"rng_state_{process}.pth").touch()
    with pytest.raises(
        UserError, match="saved by 2 processes, and DeepSpeed cannot divide its optimizer state between 1"
    ):
        tasks._checked_engine(run, folder)


@pytest.mark.slow
@pytest.mark.faults
def test_every_task_resumes_with_as_many_processes_and_with_others(tmp_path, monkeypatch, capsys):
    without_pictures(monkeypatch)
    recipe = tmp_path / "recipe.yaml"
    content = {"data": {"name": "dialogues", "path": "sample"}, "stages": STAGES}
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    one, two, same, more, fewer = (tmp_path / name for name in ("one", "two", "same", "more", "fewer"))
    train(recipe, one, SOME)
    interrupted(one, more, SOME)

    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [*launch, tmp_path / "train.py", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in STAGES:
        last, before = ((two / name / f"checkpoint-{step}/model.safetensors").read_bytes() for step in (4, 2))
        assert last != before, f"{name} learned nothing, so that nothing is compared"
    assert len(re.findall("resumes from .*/same/.*checkpoint-[23]", done.stdout)) == len(STAGES)
    assert identical(two, same) == list(STAGES)
    warning = "was saved by 1 process, but the run continues with 2. The step stays the same, but each step now takes 2/1 of the rows"
    assert done.stdout.count(warning) == len(SOME)

    train(recipe, fewer, SOME)
    assert capsys.readouterr().out.count("was saved by 2 processes, but the run continues with 1") == len(SOME)
    for whole, resumed, before, now in ((one, more, 1, 2), (two, fewer, 2, 1)):
        record = json.loads((resumed / "grpo" / "run.json").read_text())
        assert record["status"] == "complete" and record["processes"] == now
        assert record["process_changes"] == [{"step": 3, "from": before, "to": now}]
        assert not identical(whole, resumed, SOME)


QUICK = ["--stages.sft.trainer.max_steps", "1", "--stages.grpo.trainer.max_steps", "1", "--evaluation.limit", "8"]
QUICK += ["--evaluation.max_new_tokens", "4", "--stages.grpo.trainer.per_device_train_batch_size", "8"]
QUICK += ["--stages.grpo.trainer.max_completion_length", "4", "--model.from_scratch.hidden_size", "16"]


@pytest.mark.faults
def test_each_of_several_seeds_is_an_ordinary_run_and_a_failed_one_goes_on(tmp_path, monkeypatch, capsys):
    alone = tasks.run_recipe("ed4_tiny", [*QUICK, "--seed", "2"], output_dir=tmp_path / "alone" / "seed_2")
    together, evaluate = tmp_path / "together", tasks.evaluate_stage

    def fails(run):
        if run.stage.seed == 2 and run.name == "grpo":
            raise UserError("no disk left")
        evaluate(run)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no disk left"):
        patch.setattr(tasks, "evaluate_stage", fails)
        tasks.run_recipe("ed4_tiny", QUICK, output_dir=together, seeds=[1, 2])
    assert "seed 2 failed; complete: 1. The same command continues" in capsys.readouterr().out
    assert (together / "seed_1" / "report.md").exists() and not (together / "seeds.json").exists()

    assert tasks.run_recipe("ed4_tiny", QUICK, output_dir=together, seeds=[1, 2]) == together
    shown = capsys.readouterr().out
    assert shown.count("complete, skipped") == 4 and "ed4_tiny, seeds 1, 2: trained in" in shown
    for stage in ("sft", "grpo"):
        for file in ("model.safetensors", "predictions_test.jsonl"):
            assert (together / "seed_2" / stage / file).read_bytes() == (alone / stage / file).read_bytes()
    tasks.run_recipe("ed4_tiny", QUICK, output_dir=together, seeds=[1, 2, 3])
    assert capsys.readouterr().out.count("complete, skipped") == 4
    content = json_or_none(together / "seeds.json")
    assert content["seeds"] == [1, 2, 3] and list(content["stages"]["grpo"]["metrics"]["accuracy"]["values"]) == list(
        "123"
    )

    plan = describe_of_seeds([1, 2, 4], together)
    assert "to run     4; complete: 1, 2" in plan and "for the training of 1 seed" in plan


def describe_of_seeds(seeds, folder):
    recipes = load_seeds("ed4_tiny", QUICK, seeds)
    return describe(next(iter(recipes.values())), folder, recipes)


@pytest.mark.parametrize(
    ("seeds", "overrides", "message"),
    [
        ([], [], r"seeds: got \[\]; expected whole numbers from 0 to"),
        (5, [], "seeds: got 5; expected whole numbers"),
        ([1, 1], [], "seeds: 1 is given twice"),
        ([1, -1], [], r"seeds: got \[1, -1\]; expected whole numbers from 0"),
        (["1"], [], "expected whole numbers"),
        ([1, 2], ["--seed", "2"], "--seed: given together with several seeds"),
        ([1, 2], ["--seed=2"], "--seed: given together with several seeds"),
        ([1, 2], ["--hub.repo_id", "ann/x"], "stages.grpo.hub: every seed would be pushed to ann/x, one over the other"),
    ],
)  # fmt: skip
def test_seeds_that_cannot_be(seeds, overrides, message, tmp_path):
    with pytest.raises(UserError, match=message):
        tasks.run_recipe("ed4_tiny", overrides, output_dir=tmp_path, seeds=seeds)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("file", "text"), [("eval_test.json", '{"a'), ("predictions_test.jsonl", None)])
def test_an_evaluation_is_kept_unless_one_of_its_files_is_missing_or_broken(tmp_path, file, text):
    for name in ("eval_test.json", "predictions_test.jsonl"):
        (tmp_path / name).write_text("{}")
    run = Mock(folder=tmp_path, evaluates_untrained=False, **{"stage.evaluation.split": "test"})
    run.read_folder.return_value.record = {"evaluated": run.evaluation_settings.return_value}
    run.load_model.side_effect = InterruptedError
    tasks.evaluate_stage(run)
    (tmp_path / file).unlink() if text is None else (tmp_path / file).write_text(text)
    with pytest.raises(InterruptedError):
        tasks.evaluate_stage(run)


def test_folders_of_all_seeds_and_models_of_all_rewards_are_looked_at_before_the_first_training(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "seed_2").write_text("")
    with pytest.raises(UserError, match="cannot write to .*/run/seed_2: Not a directory"):
        tasks.run_recipe("ed4_tiny", output_dir=tmp_path / "run", seeds=[1, 2])
    (tmp_path / "empty").mkdir()
    recipe = load_recipe("empath_tiny", ["--stages.grpo.rewards.foresight.model", str(tmp_path / "empty")])
    for start in (
        partial(tasks.run_recipe, recipe, output_dir=tmp_path / "other"),
        partial(describe, recipe, tmp_path),
    ):
        with pytest.raises(UserError, match="stages.grpo.rewards.foresight.model: .*/empty: .* found nothing"):
            start()
    assert not (tmp_path / "run" / "seed_1").exists() and not (tmp_path / "other").exists()


def test_seeds_have_to_reach_a_stage(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: ed4_tiny\nstages: {sft: {seed: 7}, grpo: {seed: 8}}\n")
    with pytest.raises(UserError, match="--seed: has no effect, stages sft, grpo set their own"):
        load_seeds(tmp_path / "own.yaml", [], [1, 2])


def test_a_loaded_recipe_has_one_seed(tmp_path):
    with pytest.raises(UserError, match="seeds: given with a loaded recipe"):
        tasks.run_recipe(load_recipe("ed4_tiny"), output_dir=tmp_path, seeds=[1])
    recipes = load_seeds("ed4_tiny", ["--stages.sft.seed", "7"], [1, 2])
    plan = describe(recipes[1], tmp_path, recipes)
    assert (
        "fixed      sft: the recipe gives the stage a seed of its own" in plan
        and "seeds 1, 2, one after the other" in plan
    )

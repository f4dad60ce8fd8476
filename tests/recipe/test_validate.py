"""Values of a recipe against pydantic models, dataclasses, and the config classes of the installed TRL."""

import dataclasses
import enum
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field, model_validator

from empathy_trl.recipe.schema import CONFIG_CLASSES
from empathy_trl.recipe.validate import (
    CHOICES,
    ELSEWHERE,
    RANGES,
    check_mapping,
    check_section,
    check_trainer,
    check_value,
    fields_of,
    fields_without_effect,
    import_class,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Socket:
    """Something that pydantic has no schema for."""


class Inner(BaseModel):
    low: float
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self):
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


@dataclass
class Options:
    count: int
    names: list[str] = field(default_factory=list)
    mode: str | None = field(default="fast", metadata={"choices": ["fast", "slow"]})
    colour: Colour | str = "red"
    hidden: int = field(default=0, init=False)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, None),
        (1, float, None),
        (None, int | None, None),
        ("a", list[str] | str, None),
        ([0, 0.5], tuple[float, float], None),
        ({"a": [1]}, dict[str, Any] | None, None),
        ("a", Literal["a", "b"], None),
        (None, Annotated[int | None, Field(ge=3)], None),
        ({"low": 0}, float | Inner, None),
        ("free", str | None | Literal[False], None),
        (4.5, int, "4.5 is not a valid int"),
        (4.0, int, "4.0 is not a valid int"),
        (True, int, "true is not a valid int"),
        ("4", int | None, "'4' is not a valid int"),
        (None, int, "null is not a valid int"),
        (3, bool, "3 is not a valid bool (true or false)"),
        ("yes", bool | None, "'yes' is not a valid bool (true or false)"),
        (True, float, "true is not a valid float"),
        (math.nan, float, "nan is not finite"),
        (math.inf, float | None, "inf is not finite"),
        (5, str, "5 is not a valid str"),
        ([1], list[str], "[1] is not a valid list of str"),
        (3, list[str] | str, "3 is not a valid list of str or str"),
        ([0.5], tuple[float, float], "[0.5] is not a valid list [float, float]"),
        ("x", dict | None, "'x' is not a valid mapping"),
        (3, str | None | Literal[False], "3 is not a valid str or false"),
        ("atuo", bool | Literal["auto"], "unknown choice 'atuo'; did you mean auto? (choices: auto, true, false)"),
        (2, Annotated[int, Field(ge=3)], "2 should be greater than or equal to 3"),
        (0, Annotated[float | None, Field(gt=0)], "0 should be greater than 0"),
        ("x", float | Inner, "'x' is not a valid float or mapping of low, high"),
        (1, Socket, "cannot be set in a recipe: it takes a Python object"),
    ],
)  # fmt: skip
def test_a_value_against_a_type(value, hint, expected):
    assert [message for _, message in check_value(value, hint)] == ([expected] if expected else [])


def test_a_mapping_is_checked_key_by_key():
    given = {"cuont": 1, "names": "x", "mode": "fats", "colour": "redd", "hidden": 1}
    assert list(check_mapping(given, fields_of(Options), "option")) == [
        (("cuont",), "unknown option; did you mean count? (choices: count, names, mode, colour)"),
        (("names",), "'x' is not a valid list of str"),
        (("mode",), "unknown choice 'fats'; did you mean fast? (choices: fast, slow)"),
        (("colour",), "unknown choice 'redd'; did you mean red? (choices: red, blue)"),
        (("hidden",), "unknown option (choices: count, names, mode, colour)"),
        (("count",), "missing; expected int"),
    ]
    assert list(check_mapping([1], fields_of(Options))) == [((), "[1] is not a mapping of count, names, mode, colour")]
    assert not list(check_mapping({"count": 1, "mode": None, "colour": "blue"}, fields_of(Options)))


def test_a_section_inside_a_section_is_checked_with_its_path_and_its_validators():
    class Outer(BaseModel):
        inner: Inner

    assert list(check_section({"inner": {"low": "x"}}, Outer)) == [(("inner", "low"), "'x' is not a valid float")]
    assert list(check_section({"inner": {"low": 2}}, Outer)) == [(("inner",), "low 2.0 is not below high 1.0")]
    assert list(check_section({}, Outer)) == [(("inner",), "missing; expected mapping of low, high")]


def lines(task, trainer, training=True):
    problems = check_trainer(trainer, task, import_class(CONFIG_CLASSES[task]), training)
    return [f"{'.'.join(path)}: {message}" for path, message in problems]


RIGHT = [
    {},
    {"learning_rate": 1, "num_train_epochs": 3, "warmup_steps": 0.1, "logging_steps": 1, "save_steps": 20},
    {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-7}, "optim": "adamw_torch"},
    {"bf16": True, "tf32": None, "save_strategy": "no", "save_total_limit": None, "max_steps": -1},
    {"scale_rewards": False, "loss_type": "dr_grpo", "importance_sampling_level": "sequence", "num_iterations": 2},
    {"loss_type": "cispo", "epsilon_high": 5.0, "use_vllm": True, "off_policy_mask_threshold": 0.5},
    {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    {"loss_type": "vespo", "vespo_k_pos": 1.0, "steps_per_generation": 2},
    {"loss_type": "vespo", "vespo_k_pos": 1.0, "use_vllm": True, "vllm_importance_sampling_mode": "token_mask"},
    {"use_vllm": True, "top_p": 0.9, "vllm_importance_sampling_correction": False},
    {"report_to": ["wandb", "tensorboard"], "pad_to_multiple_of": 8, "generation_kwargs": {"top_k": 5}},
    {"use_vllm": True, "vllm_mode": "server", "dataloader_multiprocessing_context": "fork"},
    {"generation_batch_size": 16, "num_generations": 4, "per_device_train_batch_size": 4},
    {"use_vllm": True, "vllm_importance_sampling_clip_max": None, "trackio_static_space_id": "me/space"},
]


@pytest.mark.parametrize("trainer", RIGHT)
def test_a_trainer_section_that_is_right(trainer):
    assert lines("grpo", trainer) == []


IN_TRAINING = "has no effect with task grpo: evaluation.every says when the model is evaluated; delete the key"
WRONG = [
    # by its type or its choices
    ("grpo", {"num_generations": 4.5}, "num_generations: 4.5 is not a valid int"),
    ("grpo", {"bf16": 3}, "bf16: 3 is not a valid bool"),
    ("grpo", {"lr_scheduler_kwargs": 3}, "lr_scheduler_kwargs: 3 is not a valid mapping or str"),
    ("grpo", {"save_strategy": False}, "save_strategy: unknown choice false (choices: no, steps, epoch, best)"),
    ("grpo", {"lr_scheduler_type": "cosin"}, "lr_scheduler_type: unknown choice 'cosin'; did you mean cosine?"),
    ("grpo", {"log_level": "warn"}, "log_level: unknown choice 'warn'; did you mean warning?"),
    ("grpo", {"loss_type": "dpoo"}, "loss_type: unknown choice 'dpoo'; did you mean dapo? (choices: grpo, dr_grpo, dapo,"),
    ("sft", {"loss_type": "dapo"}, "loss_type: unknown choice 'dapo' (choices: nll, dft, chunked_nll)"),
    ("grpo", {"scale_rewards": "grop"}, "scale_rewards: unknown choice 'grop'; did you mean group? (choices: group, batch, none, true, false)"),
    ("grpo", {"use_vllm": True, "vllm_mode": "serve"}, "vllm_mode: unknown choice 'serve'; did you mean server? (choices: colocate, server)"),
    ("grpo", {"bf16": True, "fp16": True}, "fp16: true excludes bf16: true; set one of them to false"),
    ("grpo", {"learning_rat": 1.0}, "learning_rat: unknown field of EmpathyGRPOConfig; did you mean learning_rate?"),
    # by its range
    ("grpo", {"num_generations": 1}, "num_generations: 1 should be greater than or equal to 2"),
    ("grpo", {"learning_rate": -1e-6}, "learning_rate: -1e-06 should be greater than 0"),
    ("grpo", {"max_completion_length": 0}, "max_completion_length: 0 should be greater than or equal to 1"),
    ("grpo", {"report_to": ["wandb", "tensorbord"]}, "report_to: ['wandb', 'tensorbord'] should be one or more of none, all, "),
    ("grpo", {"max_steps": 0}, "max_steps: 0 should be at least 1, or -1 to train for num_train_epochs"),
    ("grpo", {"per_device_train_batch_size": 0}, "per_device_train_batch_size: 0 should be greater than or equal to 1"),
    # by the config class, upstream's or ours
    ("grpo", {"warmup_steps": -1}, "warmup_steps: -1 is refused: warmup_steps must be an integer or a float"),
    ("grpo", {"debug": "foo"}, "debug: 'foo' is refused: foo is not a valid DebugOption"),
    ("grpo", {"accelerator_config": "x.json"}, "accelerator_config: 'x.json' is refused: [Errno 2] No such file"),
    ("grpo", {"auto_find_batch_size": True}, "auto_find_batch_size: cannot be set here; set per_device_train_batch_size; a size"),
    ("grpo", {"num_generations": 3, "per_device_train_batch_size": 8}, "num_generations: 3 is refused: generation_batch_size (8) must be divisible by num_generations (3). (generation_batch_size is per_device_train_batch_size ×"),
    ("grpo", {"per_device_train_batch_size": 3}, "per_device_train_batch_size: 3 is refused: generation_batch_size (3) must be"),
    ("grpo", {"generation_batch_size": 16, "steps_per_generation": 2}, "generation_batch_size: 16 is refused: 'generation_batch_size' and 'steps_per_generation' can not be both"),
    ("ppo", {"gamma": 2}, "gamma: 2 should be from 0 to 1"),
    ("regress", {"huber_delta": 0}, "huber_delta: 0 should be above 0"),
    ("classify", {"eval_steps": 5}, "eval_steps: 5 should be save_steps (500), or be left out"),
    # by another part of the recipe
    ("grpo", {"output_dir": "x"}, "output_dir: cannot be set here; use --output_dir"),
    ("grpo", {"reward_weights": [1.0]}, "reward_weights: cannot be set here; use rewards.<name>.weight"),
    # by having no effect
    ("grpo", {"per_device_eval_batch_size": 32}, f"per_device_eval_batch_size: {IN_TRAINING}"),
    ("grpo", {"max_tool_calling_iterations": 2}, "max_tool_calling_iterations: has no effect with task grpo: recipes do not support tools"),
    ("sft", {"load_best_model_at_end": True}, "load_best_model_at_end: has no effect with task sft: evaluation.best keeps"),
    ("classify", {"load_best_model_at_end": True}, "load_best_model_at_end: has no effect with task classify: the best checkpoint"),
    ("ppo", {"scale_rewards": "none"}, "scale_rewards: has no effect with task ppo: the critic, not the group"),
    # beside others
    *(pytest.param(task, trainer, expected, marks=pytest.mark.faults) for task, trainer, expected in (
        ("grpo", {"data_seed": 3}, "data_seed: has no effect with task grpo: the recipe's own `seed` draws the prompts"),
        ("grpo", {"vllm_gpu_memory_utilization": 0.5}, "vllm_gpu_memory_utilization: has no effect without use_vllm: true (the"),
        ("grpo", {"use_vllm": True, "vllm_server_port": 80}, "vllm_server_port: has no effect without vllm_mode: server"),
        ("grpo", {"sapo_temperature_pos": 2.0}, "sapo_temperature_pos: has no effect with loss_type dapo, only with sapo; delete"),
        ("grpo", {"loss_type": "sapo", "epsilon": 0.1, "num_iterations": 2}, "epsilon: has no effect with loss_type sapo, only with dapo,"),
        ("grpo", {"epsilon_high": 0.28}, "epsilon_high: has no effect, because each rollout is used for only one update"),
        ("ppo", {"epsilon": 0.1}, "epsilon: has no effect, because each rollout is used for only one update"),
        ("grpo", {"loss_type": "grpo", "importance_sampling_level": "sequence"}, "importance_sampling_level: has no effect, because"),
        ("grpo", {"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold: has no effect, because"),
        ("grpo", {"loss_type": "cispo", "num_iterations": 2}, "loss_type: cispo clips ratios, which are about 1, at epsilon_high (now 0.2;"),
        ("grpo", {"delta": 1.1, "num_iterations": 2}, "delta: 1.1 replaces the clipping at 1 + epsilon_high (1.2)"),
        ("grpo", {"delta": 0.9}, "delta: 0.9 should be greater than 1"),
        ("grpo", {"loss_type": "luspo"}, "loss_type: luspo weights whole sequences; set importance_sampling_level: sequence"),
        ("grpo", {"loss_type": "vespo", "importance_sampling_level": "sequence", "num_iterations": 2}, "importance_sampling_level: sequence: vespo makes"),
        ("grpo", {"importance_sampling_level": "sequence", "num_iterations": 2}, "importance_sampling_level: sequence: the default loss_type, dapo,"),
        ("grpo", {"scale_rewards": "batch", "multi_objective_aggregation": "normalize_then_sum"}, "scale_rewards: has no effect with multi"),
        ("ppo", {"missing_eos_penalty": 1.0, "mask_truncated_completions": True}, "missing_eos_penalty: has no effect with mask_truncated"),
        ("grpo", {"sync_ref_model": True}, "sync_ref_model: needs a reference model, which beta: 0 leaves out"),
        ("grpo", {"use_vllm": True, "top_p": 0.9}, "top_p: 0.9 changes the probabilities of vLLM but not"),
        ("grpo", {"use_vllm": True, "top_k": 20}, "top_k: 20 changes the probabilities of vLLM"),
        ("grpo", {"use_vllm": True, "generation_kwargs": {"min_p": 0.1}}, "generation_kwargs: min_p 0.1 changes the probabilities of vLLM"),
        ("grpo", {"use_vllm": True, "loss_type": "vespo"}, "loss_type: vespo needs vllm_importance_sampling_mode token_truncate or token_mask"),
        ("grpo", {"use_liger_loss": True}, "use_liger_loss: TRL has removed it"),
        ("grpo", {"use_vllm": True, "vllm_importance_sampling_cap": 2.0}, "vllm_importance_sampling_cap: is deprecated; use vllm_importance_sampling_clip_max"),
        ("ppo", {"ref_model_sync_steps": 8}, "ref_model_sync_steps: has no effect without sync_ref_model: true"),
        ("sft", {"packing_strategy": "wrapped"}, "packing_strategy: has no effect without packing: true (the default is false); set both"),
        ("regress", {"gradient_checkpointing_kwargs": {}}, "gradient_checkpointing_kwargs: has no effect without gradient_"),
        ("regress", {"loss": "mse", "huber_delta": 2.0}, "huber_delta: 2.0 has no effect without objective regression and loss huber"),
        ("regress", {"loss": "mse", "objective": "pairwise"}, "loss: 'mse' has no effect with objective pairwise"),
        ("sft", {"lr_scheduler_type": "constant", "warmup_steps": 9}, "warmup_steps: 9 has no effect with lr_scheduler_type constant"),
        ("grpo", {"enable_jit_checkpoint": True}, "enable_jit_checkpoint: cannot be set here; leave it out; a run always saves"),
        ("sft", {"save_only_model": True}, "save_only_model: true: an interrupted stage would resume with a new optimizer"),
        ("grpo", {"ignore_data_skip": True}, "ignore_data_skip: true: an interrupted stage would resume with the first rows"),
        ("grpo", {"generation_kwargs": {"temperature": 2.0}}, "generation_kwargs: temperature would replace trainer.temperature"),
        ("ppo", {"generation_kwargs": {"max_new_tokens": 3}}, "generation_kwargs: max_new_tokens is set by trainer.max_completion_length"),
        ("grpo", {"generation_kwargs": {"num_return_sequences": 2}}, "generation_kwargs: num_return_sequences is set by trainer.num_generations"),
        ("grpo", {"generation_kwargs": {"num_beam": 2}}, "generation_kwargs: unknown generation setting 'num_beam'; did you mean num_beams?"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("task", "trainer", "expected"), WRONG)
def test_a_trainer_section_that_is_wrong(task, trainer, expected, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    (line,) = lines(task, trainer)
    assert line.startswith(expected)


PAGE = Path(__file__).parents[2] / "docs" / "grpo.md"


@pytest.mark.parametrize("text", re.findall(r"\| `(\{.*?\})` \|", PAGE.read_text()))
def test_the_recipe_lines_of_the_page_about_losses_are_right(text):
    assert lines("grpo", yaml.safe_load(text)) == []


def test_what_is_switched_off_on_purpose_may_keep_its_settings():
    assert lines("grpo", {"use_vllm": False, "vllm_gpu_memory_utilization": 0.5, "vllm_mode": "colocate"}) == []
    assert lines("sft", {"packing": False, "packing_strategy": "wrapped"}) == []
    assert lines("sft", {"save_only_model": True, "save_strategy": "no"}) == []


def test_several_processes_make_groups_fit_which_the_launcher_checks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert lines("grpo", {"num_generations": 8, "per_device_train_batch_size": 4}) == []


def test_what_is_only_evaluated_may_have_fields_without_effect():
    assert lines("grpo", {"per_device_eval_batch_size": 32, "warmup_steps": -1}, training=False) == []
    assert lines("grpo", {"bf16": 3}, training=False) == ["bf16: 3 is not a valid bool (true or false)"]


@pytest.mark.parametrize("task", CONFIG_CLASSES)
def test_every_default_of_the_config_classes_passes(task):
    """A default that a choice or range refuses would show that a table is wrong."""
    refused = {*ELSEWHERE, *fields_without_effect(task), "debug", "trackio_space_id"}
    defaults = {
        each.name: each.default
        for each in dataclasses.fields(import_class(CONFIG_CLASSES[task]))
        if each.default is not dataclasses.MISSING and each.name not in refused
    }
    assert lines(task, defaults, training=False) == []


def test_the_tables_name_fields_that_exist():
    """Catches misspelt rows, and rows that an upgrade of TRL or transformers has made pointless."""
    fields = {task: {each.name for each in dataclasses.fields(import_class(at))} for task, at in CONFIG_CLASSES.items()}
    assert {*CHOICES, *RANGES, *ELSEWHERE} <= set.union(*fields.values())
    for task in CONFIG_CLASSES:
        known = fields[task] | {"eval_packing", "num_generations_eval"}  # of sft, and of grpo and ppo
        assert set(fields_without_effect(task)) <= known


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_those_of_trls_help(name):
    (text,) = [
        each.metadata["help"] for each in dataclasses.fields(import_class(CONFIG_CLASSES["grpo"])) if each.name == name
    ]
    for choice in map(str, CHOICES[name]):
        assert re.search(rf"['`]?{choice}['`]", text), f"{choice} is not in the help of {name}"

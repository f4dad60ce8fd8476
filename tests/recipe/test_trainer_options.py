"""What `trainer:` may say, against the config classes of the installed TRL."""

import dataclasses
import re

import pytest

from empathy_trl.recipe.validate import CHOICES, ELSEWHERE, RANGES, TAKES_A_PATH, check_trainer, import_class


@pytest.fixture(scope="module")
def grpo():
    return import_class("trl:GRPOConfig")


@pytest.fixture(scope="module")
def sft():
    return import_class("trl:SFTConfig")


@pytest.fixture(scope="module")
def regress():
    return import_class("empathy_trl.trainers.classify:RegressConfig")


@pytest.fixture(scope="module")
def ppo():
    return import_class("empathy_trl.trainers.ppo:PPOConfig")


def lines(trainer, config_class, processes=1):
    return [f"{'.'.join(path)}: {message}" for path, message in check_trainer(trainer, config_class, processes)]


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {
            "learning_rate": 1,
            "num_train_epochs": 3,
            "warmup_steps": 0.1,
            "logging_steps": 1,
            "save_steps": 20,
        },
        {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": 1e-7},
            "optim": "adamw_torch",
        },
        {"bf16": True, "tf32": None, "save_strategy": "no", "save_total_limit": None, "max_steps": -1},
        {"scale_rewards": False, "loss_type": "dr_grpo", "importance_sampling_level": "sequence"},
        {"report_to": ["wandb", "tensorboard"], "pad_to_multiple_of": 8, "generation_kwargs": {"top_k": 5}},
        {"deepspeed": "zero3.json", "vllm_mode": "server", "dataloader_multiprocessing_context": "fork"},
        {"generation_batch_size": 16, "num_generations": 4, "per_device_train_batch_size": 4},
        {"vllm_importance_sampling_clip_max": None, "trackio_static_space_id": "me/space"},
    ],
)
def test_sections_that_are_right(grpo, trainer):
    assert lines(trainer, grpo) == []


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"num_generations": 4.5}, "num_generations: 4.5 is not a valid int"),
        ({"num_generations": None}, "num_generations: null is not a valid int"),
        ({"num_generations": 1}, "num_generations: 1 should be greater than or equal to 2"),
        ({"bf16": 3}, "bf16: 3 is not a valid bool"),
        ({"learning_rate": "abc"}, "learning_rate: 'abc' is not a valid float"),
        ({"learning_rate": 0}, "learning_rate: 0 should be greater than 0"),
        ({"learning_rate": -1e-6}, "learning_rate: -1e-06 should be greater than 0"),
        ({"max_steps": 0}, "max_steps: 0 should be at least 1, or -1 to train for num_train_epochs"),
        ({"max_steps": 1e3}, "max_steps: 1000.0 is not a valid int"),
        ({"num_train_epochs": 0}, "num_train_epochs: 0 should be greater than 0"),
        ({"temperature": 0.0}, "temperature: 0.0 should be greater than 0"),
        ({"beta": -0.1}, "beta: -0.1 should be greater than or equal to 0"),
        ({"max_completion_length": 0}, "max_completion_length: 0 should be greater than or equal to 1"),
        ({"top_p": 1.5}, "top_p: 1.5 should be less than or equal to 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: 0 should be greater than or equal to 1"),
        ({"lr_scheduler_kwargs": "x"}, "lr_scheduler_kwargs: 'x' is not a valid mapping"),
        ({"loss_type": "dpoo"}, "loss_type: unknown choice 'dpoo'; did you mean dapo? (choices: grpo, dr_grpo, dapo,"),
        ({"vllm_mode": "colocated"}, "vllm_mode: unknown choice 'colocated'; did you mean colocate? (choices:"),
        ({"scale_rewards": "grop"}, "scale_rewards: unknown choice 'grop'; did you mean group? (choices: group, batch, none, true, false)"),
        ({"save_strategy": False}, "save_strategy: unknown choice false (choices: no, steps, epoch, best)"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type: unknown choice 'cosin'; did you mean cosine?"),
        ({"report_to": ["wandbb"]}, "report_to: unknown choice ['wandbb']; did you mean wandb?"),
        ({"log_level": "warn"}, "log_level: unknown choice 'warn'; did you mean warning?"),
        ({"learning_rat": 1.0}, "learning_rat: unknown field of GRPOConfig; did you mean learning_rate? (nearest: learning_rate"),
        ({"output_dir": "x"}, "output_dir: cannot be set here; use --output_dir of run.py"),
        ({"seed": 1}, "seed: cannot be set here; use the recipe's own `seed`"),
        ({"reward_weights": [1.0]}, "reward_weights: cannot be set here; use rewards.<name>.weight"),
        ({"push_to_hub": True}, "push_to_hub: cannot be set here; use `hub`"),
        ({"eval_strategy": "steps"}, "eval_strategy: cannot be set here; use `evaluation`"),
    ],
)  # fmt: skip
def test_sections_that_are_wrong(grpo, trainer, expected):
    (line,) = lines(trainer, grpo)
    assert line.startswith(expected)


def test_an_unknown_field_shows_at_most_five_others(grpo):
    (line,) = lines({"vllm_importance_sampling": 1}, grpo)
    assert line.count("vllm_") <= 7  # the key, the suggestion, five more


@pytest.mark.parametrize(
    ("trainer", "processes", "expected"),
    [
        (
            {"num_generations": 8, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3},
            1,
            "num_generations: 8 does not divide the generation batch of 12 (per_device_train_batch_size 4 × WORLD_SIZE 1 × gradient_accumulation_steps 3); group sizes that do: 2, 3, 4, 6, 12",
        ),
        (
            {"per_device_train_batch_size": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 8},
            3,
            "num_generations: 8 (the default) does not divide the generation batch of 12 (per_device_train_batch_size 2 × WORLD_SIZE 3 × steps_per_generation 2); group sizes that do: 2, 3, 4, 6, 12",
        ),
        (
            {"num_generations": 8, "generation_batch_size": 12, "per_device_train_batch_size": 4},
            1,
            "num_generations: 8 does not divide the generation batch of 12 (generation_batch_size); group sizes that do: 2, 3, 4, 6, 12",
        ),
        (
            {"num_generations": 5, "generation_batch_size": 10},
            1,
            "generation_batch_size: 10 is not divisible by 8 (per_device_train_batch_size 8 × WORLD_SIZE 1)",
        ),
        (
            {"generation_batch_size": 16, "steps_per_generation": 2},
            1,
            "generation_batch_size: excludes steps_per_generation; give one of them",
        ),
    ],
)
def test_groups_that_do_not_fit_the_batch(grpo, trainer, processes, expected):
    assert lines(trainer, grpo, processes) == [expected]


def test_more_processes_can_make_groups_fit(grpo):
    trainer = {"num_generations": 8, "per_device_train_batch_size": 4}
    assert lines(trainer, grpo, 1) and not lines(trainer, grpo, 2)


def test_groups_are_not_checked_when_their_numbers_are_wrong_or_the_task_has_none(grpo, sft):
    assert lines({"num_generations": 3.5, "per_device_train_batch_size": 2}, grpo) == [
        "num_generations: 3.5 is not a valid int"
    ]
    assert lines({"per_device_train_batch_size": 3}, sft) == []


def test_the_same_field_has_the_choices_of_its_own_class(sft, grpo):
    assert lines({"loss_type": "dft"}, sft) == []
    assert lines({"loss_type": "dapo"}, sft) == ["loss_type: unknown choice 'dapo' (choices: nll, dft, chunked_nll)"]
    assert lines({"loss_type": "dft"}, grpo) != []


def test_every_default_of_the_config_classes_passes(sft, grpo, ppo, regress):
    """A default that a choice or range refuses would show that a table here is wrong."""
    for config_class in (sft, grpo, ppo, regress):
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(config_class)
            if field.default is not dataclasses.MISSING and field.name not in ELSEWHERE
        }
        defaults["debug"] = "underflow_overflow"  # the default is empty, which nobody needs to write
        assert lines(defaults, config_class) == []


def test_the_tables_name_fields_that_exist(sft, grpo, ppo, regress):
    """Catches misspelt rows, and rows that an upgrade of TRL or transformers has made pointless."""
    fields = {field.name for config_class in (sft, grpo, ppo, regress) for field in dataclasses.fields(config_class)}
    assert {*CHOICES, *RANGES, *ELSEWHERE, *TAKES_A_PATH} <= fields


@pytest.mark.parametrize(
    "name",
    ["importance_sampling_level", "loss_type", "multi_objective_aggregation", "scale_rewards", "vllm_importance_sampling_mode",
     "vllm_mode", "vllm_model_impl", "include_num_input_tokens_seen"],
)  # fmt: skip
def test_choices_are_those_of_trls_help(grpo, name):
    (text,) = [field.metadata["help"] for field in dataclasses.fields(grpo) if field.name == name]
    for choice in CHOICES[name]:
        assert re.search(rf"['`]?{choice}['`]", text), f"{choice} is not in the help of {name}"


def test_choices_are_those_of_transformers():
    from transformers.debug_utils import DebugOption
    from transformers.generation.configuration_utils import (
        DYNAMIC_CACHE_IMPLEMENTATIONS,
        STATIC_CACHE_IMPLEMENTATIONS,
    )
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(CHOICES["report_to"]) == {"all", "none", *INTEGRATION_TO_CALLBACK}
    assert set(CHOICES["debug"]) == {option.value for option in DebugOption}
    caches = {*STATIC_CACHE_IMPLEMENTATIONS, *DYNAMIC_CACHE_IMPLEMENTATIONS, "paged"}
    assert set(CHOICES["cache_implementation"]) == caches

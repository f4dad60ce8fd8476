"""Typed checking of plain mappings, with nearest-name suggestions.

What comes out of YAML is compared with a class: a pydantic model, or a dataclass such as a trainer's config or a
reward. A check yields *problems*: pairs of the keys that lead to the culprit and a message about it. The caller puts
the two together, because only it knows in which part of a recipe the mapping stood.

Values are checked one key at a time with pydantic, as strictly as JSON is typed: `4.5` and `4.0` are not ints, `3` is
not a bool, `"1"` is not a number, while `1` is a float and `cosine` a member of an enum.

What `trainer:` of a recipe may say: the fields of the task's config class, checked before anything is loaded.

The config classes of transformers and TRL check little: `num_generations: 4.5`, `bf16: 3` and `loss_type: dpoo` pass
and fail, or change the run silently, later. The types come from the classes themselves. This module adds what the types
do not say: the choices of fields that are typed `str`, ranges, which fields the recipe sets elsewhere, and whether the
groups of GRPO fit the batch. Fields that a class does not have are ignored here, so one table serves all tasks.
"""

import dataclasses
import enum
import functools
import importlib
import json
import operator
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import AfterValidator, BaseModel, Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from empathy_trl.errors import LONG_LIST, show, suggestion

Problem = tuple[tuple[str, ...], str]

CONSTRAINTS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "value_error")


class Slot(NamedTuple):
    """What a key may hold: a type, perhaps with pydantic constraints, and `choices` where the type is too wide."""

    hint: Any
    required: bool = False
    choices: tuple = ()


def slots(cls: type) -> dict[str, Slot]:
    """Return the fields of a pydantic model or a dataclass (which may list `choices` in a field's metadata)."""
    if issubclass(cls, BaseModel):
        return {
            name: Slot(_constrained(field.annotation, field.metadata), field.is_required())
            for name, field in cls.model_fields.items()
        }
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: Slot(
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            tuple(field.metadata.get("choices") or ()),
        )
        for field in dataclasses.fields(cls)
        if field.init
    }


def _constrained(hint: Any, constraints: list) -> Any:
    return Annotated[(hint, *constraints)] if constraints else hint


def check_mapping(value: Any, fields: Mapping[str, Slot], kind: str = "key") -> Iterator[Problem]:
    """Yield what is wrong with a mapping: unknown keys (called `kind` in messages), missing keys, wrong values."""
    if not isinstance(value, dict):
        yield (), f"{show(value)} is not a {_mapping_of(fields)}"
        return
    for key, item in value.items():
        if key in fields:
            yield from (((key, *path), message) for path, message in check_value(item, fields[key]))
        else:
            yield (key,), f"unknown {kind}{suggestion(key, fields)}"
    for key, slot in fields.items():
        if slot.required and key not in value:
            yield (key,), f"missing; expected {_names(union_arms(slot.hint))}"


def check_value(value: Any, slot: Slot) -> Iterator[Problem]:
    """Yield what is wrong with the value of one key."""
    arms = union_arms(slot.hint)
    model = next((arm for arm in arms if _is_model(arm)), None)
    if model and isinstance(value, dict):
        yield from check_model(value, model)
        return
    members = [member for arm in arms for member in _members(arm)]
    choices = [*slot.choices, *members]
    message = _check_choice(value, choices, _open_arms(slot, arms)) if choices else _check_type(value, slot.hint)
    if message:
        yield (), message


def check_model(value: Any, model: type[BaseModel]) -> Iterator[Problem]:
    """Yield what is wrong with a mapping for a pydantic model; if every key is right, also what its validators say."""
    problems = list(check_mapping(value, slots(model)))
    yield from problems
    if not problems:
        try:
            model.model_validate(value)
        except ValidationError as error:
            for detail in error.errors():
                yield tuple(map(str, detail["loc"])), _in_words(detail)


def union_arms(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union (`int | None`), or the type itself; constraints are left out."""
    if typing.get_origin(hint) is Annotated:
        return union_arms(typing.get_args(hint)[0])
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def either(arms: Iterable[Any]) -> Any:
    """Return the union of types; the inverse of `union_arms`."""
    return functools.reduce(operator.or_, arms)


def _is_model(arm: Any) -> bool:
    return isinstance(arm, type) and issubclass(arm, BaseModel)


def _is_enum(arm: Any) -> bool:
    return isinstance(arm, type) and issubclass(arm, enum.Enum)


def _members(arm: Any) -> tuple:
    """Return the values of a `Literal` or an enum."""
    if typing.get_origin(arm) is Literal:
        return typing.get_args(arm)
    return tuple(member.value for member in arm) if _is_enum(arm) else ()


def _open_arms(slot: Slot, arms: tuple) -> list:
    """Return the types whose values are not listed one by one; beside an enum or choices, `str` only names these."""
    closed = slot.choices or any(_is_enum(arm) for arm in arms)
    return [arm for arm in arms if not _members(arm) and not (closed and arm is str)]


def _check_choice(value: Any, choices: list, open_arms: list) -> str | None:
    """Return None for one of the choices, a list of choices where a list may stand, or a value of an open type."""
    lists = [arm for arm in open_arms if typing.get_origin(arm) is list]
    items = value if isinstance(value, list) and lists else [value]
    if all(any(type(item) is type(choice) and item == choice for choice in choices) for item in items):
        return None
    others = [arm for arm in open_arms if arm not in lists]
    if others and _check_type(value, either(others)) is None:
        return None
    named = ["true, false" if arm is bool else f"any {_name(arm)}" for arm in others if arm is not type(None)]
    return f"unknown choice {show(value)}{suggestion(str(value), [*choices, *named])}"


def _check_type(value: Any, hint: Any) -> str | None:
    """Return None for a value of the type; JSON is what pydantic's strict mode takes enums and tuples from."""
    if hint is dict and isinstance(value, dict):
        return None  # whatever it holds, it is somebody else's to check
    try:
        TypeAdapter(hint).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValidationError as error:
        broken = [detail for detail in error.errors() if detail["type"] in CONSTRAINTS]
        if broken:
            return f"{show(value)} {_in_words(broken[0])}"
        return f"{show(value)} is not a valid {_names(union_arms(hint))}"
    except PydanticSchemaGenerationError:
        return "cannot be set in a recipe: it takes a Python object"
    except ValueError:  # json: not a number or infinite
        return f"{show(value)} is not finite"
    return None


def _in_words(detail: Mapping[str, Any]) -> str:
    return detail["msg"].removeprefix("Value error, ").removeprefix("Input ")


def _names(arms: tuple) -> str:
    """Name types for a message; that a key may also be null helps nobody."""
    return " or ".join(_name(arm) for arm in arms if arm is not type(None))


def _name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_model(hint):
        return _mapping_of(hint.model_fields)
    if hint is dict or origin is dict:
        return "mapping"
    if origin is list:
        return f"list of {_name(arguments[0])}"
    if origin is tuple:
        return f"list [{', '.join(map(_name, arguments))}]"
    return getattr(hint, "__name__", str(hint))


def _mapping_of(fields: Iterable[str]) -> str:
    names = list(fields)
    return f"mapping of {', '.join(names)}" if len(names) <= LONG_LIST else "mapping"


# From the help texts and the code of trl 1.16 and transformers 5.17; lists in the classes' own metadata come first.
CHOICES = {
    "cache_implementation": ("static", "offloaded_static", "dynamic", "offloaded", "quantized", "paged"),
    "debug": ("underflow_overflow", "tpu_metrics_debug"),
    "importance_sampling_level": ("token", "sequence"),
    "include_num_input_tokens_seen": ("all", "non_padding", "no"),
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "pad_to_multiple_of": ("auto",),
    "report_to": (
        *(
            "all",
            "none",
            "azure_ml",
            "clearml",
            "codecarbon",
            "comet_ml",
            "dagshub",
            "dvclive",
            "flyte",
            "kubeflow",
        ),
        *("mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb"),
    ),
    "scale_rewards": ("group", "batch", "none", True, False),
    "torch_compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("vllm", "transformers"),
}


def _steps_or_epochs(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("should be at least 1, or -1 to train for num_train_epochs")
    return value


POSITIVE, AT_LEAST_0, AT_LEAST_1, SHARE = Field(gt=0), Field(ge=0), Field(ge=1), Field(gt=0, le=1)
RANGES = {
    "adam_beta1": Field(ge=0, lt=1),
    "adam_beta2": Field(ge=0, lt=1),
    "adam_epsilon": POSITIVE,
    "beta": AT_LEAST_0,
    "cliprange_value": POSITIVE,
    "critic_learning_rate": POSITIVE,
    "critic_warmup_steps": AT_LEAST_0,
    "dataloader_num_workers": AT_LEAST_0,
    "epsilon": POSITIVE,
    "epsilon_high": POSITIVE,
    "eval_steps": POSITIVE,
    "gamma": Field(ge=0, le=1),
    "generation_batch_size": AT_LEAST_1,
    "gradient_accumulation_steps": AT_LEAST_1,
    "kl_coef": AT_LEAST_0,
    "label_smoothing_factor": Field(ge=0, lt=1),
    "huber_delta": POSITIVE,
    "lam": Field(ge=0, le=1),
    "learning_rate": POSITIVE,
    "logging_steps": POSITIVE,
    "max_completion_length": AT_LEAST_1,
    "max_grad_norm": AT_LEAST_0,
    "max_length": AT_LEAST_1,
    "max_steps": AfterValidator(_steps_or_epochs),
    "min_p": Field(ge=0, le=1),
    "num_generations": Field(ge=2),
    "num_generations_eval": AT_LEAST_1,
    "num_iterations": AT_LEAST_1,
    "num_train_epochs": POSITIVE,
    "per_device_eval_batch_size": AT_LEAST_1,
    "per_device_train_batch_size": AT_LEAST_1,
    "ref_model_mixup_alpha": Field(ge=0, le=1),
    "ref_model_sync_steps": AT_LEAST_1,
    "repetition_penalty": POSITIVE,
    "save_steps": POSITIVE,
    "save_total_limit": AT_LEAST_1,
    "steps_per_generation": AT_LEAST_1,
    "temperature": POSITIVE,
    "top_entropy_quantile": Field(ge=0, le=1),
    "top_p": SHARE,
    "vf_coef": AT_LEAST_0,
    "vllm_gpu_memory_utilization": SHARE,
    "vllm_tensor_parallel_size": AT_LEAST_1,
    "warmup_steps": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
}

# Fields that another part of the recipe, or the launcher, sets.
ELSEWHERE = {
    "output_dir": "use --output_dir of run.py",
    "seed": "use the recipe's own `seed`",
    "model_init_kwargs": "use `model`",
    "reward_weights": "use rewards.<name>.weight",
    "resume_from_checkpoint": "leave it out, an interrupted stage resumes by itself",
    "push_to_hub": "use `hub`",
    "hub_model_id": "use hub.repo_id",
    "hub_private_repo": "use hub.private",
    "hub_token": "log in with `hf auth login`, a recipe is no place for a secret",
    "eval_strategy": "use `evaluation`, every stage is evaluated at its end",
    "parallelism_config": "use a config file of accelerate",
}
TAKES_A_PATH = ("accelerator_config", "deepspeed", "fsdp_config")  # a mapping, or the file of one
BATCH_KEYS = {
    *("num_generations", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("steps_per_generation", "generation_batch_size"),
}


def check_trainer(trainer: dict[str, Any], config_class: type, processes: int) -> Iterator[Problem]:
    """Yield what is wrong with a `trainer:` section.

    Args:
        trainer: the section.
        config_class: a dataclass such as `trl.GRPOConfig`.
        processes: how many processes train together; each has `per_device_train_batch_size` rows per step.
    """
    fields = _trainer_slots(config_class)
    elsewhere = [key for key in trainer if key in ELSEWHERE and key in fields]
    own = {key: value for key, value in trainer.items() if key not in elsewhere}
    problems = [((key,), f"cannot be set here; {ELSEWHERE[key]}") for key in elsewhere]
    problems += check_mapping(own, fields, f"field of {config_class.__name__}")
    yield from problems
    if "num_generations" in fields and not BATCH_KEYS & {path[0] for path, _ in problems}:
        yield from _check_groups(trainer, config_class, processes)


def import_class(location: str) -> type:
    """Return the class at `package.module:Class`."""
    module, name = location.split(":")
    return getattr(importlib.import_module(module), name)


def _trainer_slots(config_class: type) -> dict[str, Slot]:
    """Return the fields of a config class with this module's choices and ranges; none of them is required."""
    result = {}
    for name, slot in slots(config_class).items():
        hint, arms = slot.hint, union_arms(slot.hint)
        if str in arms and name not in TAKES_A_PATH and any(_is_dict(arm) for arm in arms):
            hint = either(arm for arm in arms if arm is not str)  # str is for mappings on TRL's command line
        if name in RANGES:
            hint = Annotated[hint, RANGES[name]]
        result[name] = Slot(hint, choices=slot.choices or CHOICES.get(name, ()))
    return result


def _is_dict(arm: Any) -> bool:
    return getattr(arm, "__origin__", arm) is dict


def _check_groups(trainer: dict[str, Any], config_class: type, processes: int) -> Iterator[Problem]:
    """Yield whether a generation batch holds whole groups (the rules of `trl.GRPOConfig.__post_init__`)."""
    used = {field.name: trainer.get(field.name, field.default) for field in dataclasses.fields(config_class)}
    group, rows = used["num_generations"], used["per_device_train_batch_size"]
    batch, steps = used["generation_batch_size"], used["steps_per_generation"]
    step, per_step = f"per_device_train_batch_size {rows} × WORLD_SIZE {processes}", rows * processes
    if group is None:
        yield ("num_generations",), "null is not a valid int"
        return
    if batch is None:
        name = "gradient_accumulation_steps" if steps is None else "steps_per_generation"
        batch, origin = per_step * used[name], f"{step} × {name} {used[name]}"
    elif steps is not None:
        yield ("generation_batch_size",), "excludes steps_per_generation; give one of them"
        return
    else:
        origin = "generation_batch_size"
        if batch % per_step:
            yield ("generation_batch_size",), f"{batch} is not divisible by {per_step} ({step})"
    if batch % group:
        fitting = ", ".join(str(size) for size in range(2, batch + 1) if batch % size == 0)
        shown = show(group) if "num_generations" in trainer else f"{group} (the default)"
        message = f"{shown} does not divide the generation batch of {batch} ({origin}); group sizes that do: {fitting}"
        yield ("num_generations",), message

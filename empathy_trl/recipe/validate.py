"""Checks of a recipe's values against the types of the classes that receive them.

A class is a pydantic model (a section of a recipe) or a dataclass (a trainer's config, a reward). Pydantic validates
each value against the annotation of its field, as strictly as JSON is typed: `4.0` is not an int, `3` is not a bool and
`"1"` is not a number, while `1` is a float.

A check yields *problems*: the keys that lead to a value, and a message. The caller knows the part of the recipe that
they belong to.
"""

import dataclasses
import enum
import functools
import importlib
import json
import math
import operator
import re
import types
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import AfterValidator, BaseModel, Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from empathy_trl.engine import Engine
from empathy_trl.errors import LONG_LIST, show, suggestion
from empathy_trl.recipe.layers import LABEL_TASKS, REWARD_TASKS

Problem = tuple[tuple[str, ...], str]

CONSTRAINTS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "value_error")


class Key(NamedTuple):
    """The type of a key's value, and whether the key must be there."""

    type: Any
    required: bool = False


def fields_of(cls: type) -> dict[str, Key]:
    """Return the fields of a pydantic model or a dataclass."""
    if issubclass(cls, BaseModel):
        return {
            name: Key(_constrained(field.annotation, field.metadata), field.is_required())
            for name, field in cls.model_fields.items()
        }
    hints = typing.get_type_hints(cls, include_extras=True)
    missing = dataclasses.MISSING
    return {
        field.name: Key(
            _closed(hints[field.name], field.metadata.get("choices") or ()),
            field.default is missing and field.default_factory is missing,
        )
        for field in dataclasses.fields(cls)
        if field.init
    }


def check_mapping(value: Any, fields: Mapping[str, Key], kind: str = "key") -> Iterator[Problem]:
    """Yield what is wrong with a mapping: unknown keys (called `kind` in messages), missing keys, wrong values."""
    if not isinstance(value, dict):
        yield (), f"{show(value)} is not a {_mapping_of(fields)}"
        return
    for key, item in value.items():
        if key in fields:
            yield from (((key, *path), message) for path, message in check_value(item, fields[key].type))
        else:
            yield (key,), f"unknown {kind}{suggestion(key, fields)}"
    for key, field in fields.items():
        if field.required and key not in value:
            yield (key,), f"missing; expected {_names(_arms(field.type))}"


def check_value(value: Any, hint: Any) -> Iterator[Problem]:
    """Yield what is wrong with the value of one key; keys inside a section have their own lines."""
    arms = _arms(hint)
    section = next((arm for arm in arms if _is_section(arm)), None)
    if section is not None and isinstance(value, dict):
        yield from check_section(value, section)
        return
    if hint is dict and isinstance(value, dict):
        return  # the caller checks its keys
    try:
        TypeAdapter(hint).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except PydanticSchemaGenerationError:
        yield (), "cannot be set in a recipe: it takes a Python object"
    except ValidationError as error:
        constraint = next((detail for detail in error.errors() if detail["type"] in CONSTRAINTS), None)
        if constraint is not None:
            yield (), f"{show(value)} {_in_words(constraint)}"
        elif choices := _choices(arms):
            yield (), f"unknown choice {show(value)}{suggestion(str(value), choices)}"
        else:
            yield (), f"{show(value)} is not a valid {_names(arms)}"
    except ValueError:  # of json
        yield (), f"{show(value)} is not finite"


def check_section(value: Any, section: type[BaseModel]) -> Iterator[Problem]:
    """Yield what is wrong with a mapping for a pydantic model; if every key is right, also what its validators say."""
    problems = list(check_mapping(value, fields_of(section)))
    yield from problems
    if not problems:
        try:
            section.model_validate(value)
        except ValidationError as error:
            for detail in error.errors():
                yield tuple(map(str, detail["loc"])), _in_words(detail)


def _constrained(hint: Any, constraints: Iterable) -> Any:
    return Annotated[(hint, *constraints)] if constraints else hint


def _closed(hint: Any, choices: Iterable) -> Any:
    """Return a type with its choices, those of an enum or of a field's metadata, as a `Literal` in place of `str`."""
    arms = _arms(hint)
    members = [*choices, *(member.value for arm in arms if _is_enum(arm) for member in arm)]
    if not members:
        return hint
    others = (arm for arm in arms if arm is not str and not _is_enum(arm))
    return functools.reduce(operator.or_, others, Literal[tuple(members)])


def _arms(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union (`int | None`), or the type itself; constraints are left out."""
    if typing.get_origin(hint) is Annotated:
        return _arms(typing.get_args(hint)[0])
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_section(arm: Any) -> bool:
    return isinstance(arm, type) and issubclass(arm, BaseModel)


def _is_enum(arm: Any) -> bool:
    return isinstance(arm, type) and issubclass(arm, enum.Enum)


def _choices(arms: tuple) -> list:
    """Return the values of a `Literal` and of the `bool` beside it; nothing where any text may stand."""
    if str in arms:
        return []
    members = [member for arm in arms if typing.get_origin(arm) is Literal for member in typing.get_args(arm)]
    return [*members, True, False] if members and bool in arms else members


def _in_words(detail: Mapping[str, Any]) -> str:
    return detail["msg"].removeprefix("Value error, ").removeprefix("Input ")


def _names(arms: tuple) -> str:
    """Name types for a message; that a key may also be null helps nobody."""
    return " or ".join(_name(arm) for arm in arms if arm is not type(None))


def _name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_section(hint):
        return _mapping_of(hint.model_fields)
    if hint is dict or origin is dict:
        return "mapping"
    if hint is bool:
        return "bool (true or false)"
    if origin is Literal:
        return " or ".join(map(show, arguments))
    if origin is list:
        return f"list of {_name(arguments[0])}"
    if origin is tuple:
        return f"list [{', '.join(map(_name, arguments))}]"
    return getattr(hint, "__name__", str(hint))


def _mapping_of(fields: Iterable[str]) -> str:
    names = list(fields)
    return f"mapping of {', '.join(names)}" if len(names) <= LONG_LIST else "mapping"


# Values that TRL 1.16 compares with these only in its first step, after the model is loaded and a batch is sampled
CHOICES = {
    "importance_sampling_level": ("token", "sequence"),
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "vllm_mode": ("colocate", "server"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}


def _steps_or_epochs(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("should be at least 1, or -1 to train for num_train_epochs")
    return value


def _trackers(value: str | list[str]) -> str | list[str]:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK  # slow to import

    choices = ("none", "all", *INTEGRATION_TO_CALLBACK)
    if not set([value] if isinstance(value, str) else value or []) <= set(choices):
        raise ValueError(f"should be one or more of {', '.join(choices)}")
    return value


# Values that the config classes accept: outside these ranges nothing is learned, or something else than was meant (a
# max_steps of 0 trains for num_train_epochs, a negative epsilon or beta turns the loss round, a temperature of 0 makes every
# logit infinite), or the training stops with a division by zero or an empty batch
RANGES = {
    "learning_rate": Field(gt=0),
    "num_train_epochs": Field(gt=0),
    "max_steps": AfterValidator(_steps_or_epochs),
    "beta": Field(ge=0),
    "num_generations": Field(ge=2),
    "report_to": AfterValidator(_trackers),
    "delta": Field(gt=1),
    "top_entropy_quantile": Field(ge=0, le=1),
    **dict.fromkeys(("epsilon", "epsilon_high", "temperature", "save_steps"), Field(gt=0)),
    **dict.fromkeys(("off_policy_mask_threshold", "sapo_temperature_neg", "sapo_temperature_pos"), Field(gt=0)),
    **dict.fromkeys(
        (
            "generation_batch_size",
            "gradient_accumulation_steps",
            "max_completion_length",
            "max_length",
            "num_iterations",
            "per_device_train_batch_size",
            "steps_per_generation",
        ),
        Field(ge=1),
    ),
}

# Fields that the launcher or another part of the recipe sets
ELSEWHERE = {
    "output_dir": "use --output_dir",
    "seed": "use the recipe's own `seed`",
    "model_init_kwargs": "use `model`",
    "chat_template_kwargs": "use model.chat_template_kwargs, which also holds in the evaluation and in the chat",
    "reward_weights": "use rewards.<name>.weight",
    "resume_from_checkpoint": "leave it out; interrupted stages resume automatically",
    "enable_jit_checkpoint": "leave it out; a run always saves a checkpoint at SIGTERM",
    "hub_token": "log in with `hf auth login`; a recipe is no place for a secret",
    "eval_strategy": "use evaluation.every",
    "parallelism_config": "use a config file of accelerate",
    "auto_find_batch_size": "set per_device_train_batch_size; a size that is found at run time would differ from the recorded one",
    "hub_model_id": "use hub.repo_id",
    "hub_private_repo": "use hub.private",
    "push_to_hub": "use `hub`",
}

GENERATING_TASKS = ("sft", *REWARD_TASKS)
ALL_TASKS = (*GENERATING_TASKS, *LABEL_TASKS)
OF_EVALUATION_IN_TRAINING = (
    *("batch_eval_metrics", "bf16_full_eval", "eval_accumulation_steps", "eval_delay", "eval_do_concat_batches"),
    *("eval_on_start", "eval_packing", "eval_steps", "eval_use_gather_object", "fp16_full_eval", "greater_is_better"),
    *("include_for_metrics", "metric_for_best_model", "num_generations_eval", "per_device_eval_batch_size"),
    "prediction_loss_only",
)
# (tasks, fields that do nothing there, why). Recipes of version 0.1 may have them
NO_EFFECT = (
    (ALL_TASKS, ("do_train", "do_eval", "do_predict"), "only the example scripts of transformers read it"),
    (ALL_TASKS, ("hub_always_push", "hub_revision", "hub_strategy"), "the section `hub` says what is pushed"),
    (
        GENERATING_TASKS,
        OF_EVALUATION_IN_TRAINING,
        "evaluation.every says when the model is evaluated",
    ),
    (GENERATING_TASKS, ("load_best_model_at_end",), "evaluation.best keeps the best checkpoint"),
    (LABEL_TASKS, ("load_best_model_at_end",), "the best checkpoint is kept, or with save_strategy 'no' the last one"),
    (GENERATING_TASKS, ("trust_remote_code",), "models with Python code are not loaded"),
    (("sft",), ("dataset_text_field",), "the rows have a prompt and a completion"),
    (REWARD_TASKS, ("max_tool_calling_iterations",), "recipes do not support tools"),
    (REWARD_TASKS, ("log_multimodal",), "prompts are texts"),
    (REWARD_TASKS, ("label_smoothing_factor",), "the loss has no labels"),
    (REWARD_TASKS, ("train_sampling_strategy", "length_column_name"), "`shuffle_dataset` says how prompts are drawn"),
    (REWARD_TASKS, ("data_seed",), "the recipe's own `seed` draws the prompts"),
    (("ppo",), ("scale_rewards", "multi_objective_aggregation"), "the critic, not the group, gives the advantages"),
)


# (fields, the field that they need, its values with which they have no effect, a value with which they have one). They are
# only refused if the needed field is not set: an override such as `--trainer.use_vllm false` may leave the others in place
NEEDED = (
    (("vllm_*",), "use_vllm", (False,), "true"),
    (("vllm_server_*", "vllm_group_port"), "vllm_mode", ("colocate",), "server"),
    (("ref_model_mixup_alpha", "ref_model_sync_steps"), "sync_ref_model", (False,), "true"),
    (
        ("log_completions_hub_repo", "log_unique_prompts", "num_completions_to_print"),
        "log_completions",
        (False,),
        "true",
    ),
    (("transformers_continuous_batching_config",), "use_transformers_continuous_batching", (False,), "true"),
    (
        ("entropy_coef_delta", "entropy_coef_max", "entropy_coef_min", "entropy_target"),
        "use_adaptive_entropy",
        (False,),
        "true",
    ),
    (("use_bias_correction_kl",), "beta", (0.0,), "above 0"),
    (("packing_strategy",), "packing", (False,), "true"),
    (("dataloader_persistent_workers", "dataloader_prefetch_factor"), "dataloader_num_workers", (0,), "at least 1"),
    (("gradient_checkpointing_kwargs",), "gradient_checkpointing", (False,), "true"),
    (("liger_kernel_config",), "use_liger_kernel", (False,), "true"),
    (("fsdp_config",), "fsdp", (None, "", [], False), "such as true"),
)
# The loss of GRPO and PPO: field -> the values of `loss_type` that read it
CLIPPED = ("dapo", "grpo", "bnpo", "dr_grpo", "luspo")  # these clip the ratio as PPO does
READ_BY_LOSSES = {
    **dict.fromkeys(("epsilon", "delta"), CLIPPED),
    "epsilon_high": (*CLIPPED, "cispo"),
    **dict.fromkeys(("sapo_temperature_pos", "sapo_temperature_neg"), ("sapo",)),
    **dict.fromkeys(("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"), ("vespo",)),
}
# Fields that use a rollout for more than one update. Without them, the policy that is updated is the one that made the rollout
REUSE = ("num_iterations", "steps_per_generation", "generation_batch_size")
OF_RATIO = (
    "has no effect, because each rollout is used for only one update, so that the ratio between the policy and that of the rollout "
    "is 1; set num_iterations to 2 or more (or steps_per_generation above gradient_accumulation_steps), or delete the key"
)
SMOOTHED = {
    "repetition_penalty": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
}  # settings that change probabilities -> off
# keys of earlier versions of TRL, or that are about to go -> what to do
RENAMED = {
    "use_liger_loss": "TRL has removed it, because its own loss no longer needs all logits at once. Delete the key; use_liger_kernel replaces layers",
    "vllm_importance_sampling_cap": "is deprecated; use vllm_importance_sampling_clip_max",
    "use_transformers_paged": "is deprecated; use use_transformers_continuous_batching",
}
# settings that prevent an exact resume -> how the resumed stage would continue
RESUMED_AS_ANOTHER = {
    "save_only_model": "a new optimizer and a new schedule",
    "ignore_data_skip": "the first rows again",
}
# sampling settings that are fields of the trainer; the log-probabilities in the loss use its temperature, too
OWN_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
# other generation settings, of transformers or vLLM -> the field of the trainer that sets them
SET_BY_FIELD = {
    **dict.fromkeys(("max_new_tokens", "max_length", "max_tokens"), "max_completion_length"),
    **dict.fromkeys(("num_return_sequences", "n"), "num_generations"),
}


def fields_without_effect(task: str) -> dict[str, str]:
    """Return the fields of a task's config class that do nothing in a recipe, each with its reason."""
    return {field: reason for tasks, fields, reason in NO_EFFECT if task in tasks for field in fields}


BATCH_FIELDS = ("per_device_train_batch_size", "steps_per_generation", "gradient_accumulation_steps")


def import_class(location: str) -> type:
    """Return the class at `package.module:Class`."""
    module, name = location.split(":")
    return getattr(importlib.import_module(module), name)


def check_trainer(trainer: dict[str, Any], task: str, config_class: type, training: bool = True) -> Iterator[Problem]:
    """Yield what is wrong with a `trainer:` section.

    Args:
        trainer: the section.
        task: of the stage.
        config_class: of the task's trainer, a dataclass such as `trl.GRPOConfig`; its fields are the keys.
        training: also refuse fields without effect, and what the class itself refuses when it is constructed.
    """
    fields = {
        name: _narrowed(name, field.type)
        for name, field in fields_of(config_class).items()  # none of them is required
    }
    redirected = {key: f"cannot be set here; {ELSEWHERE[key]}" for key in trainer if key in ELSEWHERE}
    if training:
        useless = fields_without_effect(task)
        redirected |= {key: RENAMED[key] for key in trainer if key in RENAMED}
        redirected |= {
            key: f"has no effect with task {task}: {useless[key]}; delete the key" for key in trainer if key in useless
        }
    redirected = {key: message for key, message in redirected.items() if key in fields or key in RENAMED}
    problems = [((key,), message) for key, message in redirected.items()]
    own = {key: value for key, value in trainer.items() if key not in redirected}
    problems += check_mapping(own, fields, f"field of {config_class.__name__}")
    if training:
        defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
        problems += [((key,), message) for key, message in _ineffective_together(own, defaults)]
        if "epsilon_high" in defaults:  # GRPO and PPO
            wrong = {path[0] for path, _ in problems}
            right = {key: value for key, value in own.items() if key not in wrong and value is not None}
            problems += [((key,), message) for key, message in _loss_problems(right, defaults)]
    yield from problems
    # with several processes, constructing the config would join them before the launcher does
    if training and not problems and Engine.here().processes == 1:
        yield from _check_together(own, config_class)


def _ineffective_together(trainer: dict[str, Any], defaults: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield fields that have no effect beside the others, replace others, or prevent an exact resume, each with a message."""
    for fields, needed, off, on in NEEDED:
        if needed not in trainer and needed in defaults and defaults[needed] in off:
            reason = f"has no effect without {needed}: {on} (the default is {show(defaults[needed])}); set both, or delete the key"
            yield from ((key, reason) for key in trainer if any(fnmatchcase(key, pattern) for pattern in fields))
    if trainer.get("lr_scheduler_type") == "constant" and (warmup := trainer.get("warmup_steps")):
        yield (
            "warmup_steps",
            f"{show(warmup)} has no effect with lr_scheduler_type constant; use constant_with_warmup, or 0 here",
        )
    for key, reason in RESUMED_AS_ANOTHER.items():
        if trainer.get(key) is True and trainer.get("save_strategy") not in ("no", False):
            reason = f"an interrupted stage would resume with {reason}"
            yield key, f"true: {reason}; delete the key, or set save_strategy: 'no' to save the model at the end only"
    settings = trainer.get("generation_kwargs")
    for key in OWN_SAMPLING if isinstance(settings, dict) else ():
        if key in settings and (key == "temperature" or key in trainer):
            reason = " in the rollouts, but not in the loss" if key == "temperature" else ", which is also set"
            yield "generation_kwargs", f"{key} would replace trainer.{key}{reason}; use trainer.{key}"
    for key in settings if isinstance(settings, dict) else ():
        if key in SET_BY_FIELD:
            yield "generation_kwargs", f"{key} is set by trainer.{SET_BY_FIELD[key]}; use that"
        elif not trainer.get("use_vllm"):  # which refuses unknown settings itself; transformers ignores them
            from transformers import GenerationConfig  # slow to import

            known = [name for name in vars(GenerationConfig()) if not name.startswith("_")]
            if key not in known:
                yield "generation_kwargs", f"unknown generation setting {show(key)}{suggestion(key, known)}"


def _loss_problems(trainer: dict[str, Any], defaults: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield settings of GRPO's loss that have no effect, or not the effect that their names promise; see docs/grpo.md."""
    values = defaults | trainer
    loss, high = values["loss_type"], values["epsilon_high"] or values["epsilon"]
    for key, losses in READ_BY_LOSSES.items():
        if key in trainer and loss not in losses:
            yield key, f"has no effect with loss_type {loss}, only with {', '.join(losses)}; delete the key"
    if not any(key in trainer for key in REUSE):
        yield from ((key, OF_RATIO) for key in trainer if _is_of_ratio(key, trainer, loss))
    if loss == "cispo" and high <= 1:
        message = f"cispo clips ratios, which are about 1, at epsilon_high (now {high:g}; epsilon by default), so it would clip all of them"
        yield "loss_type", f"{message}; set epsilon_high above 1, such as 5.0"
    if loss in CLIPPED and trainer.get("delta", math.inf) <= 1 + high:
        message = f"{trainer['delta']:g} replaces the clipping at 1 + epsilon_high ({1 + high:g})"
        yield "delta", f"{message}; expected a higher value"
    yield from _sequence_problems(trainer, loss)
    if "scale_rewards" in trainer and trainer.get("multi_objective_aggregation") == "normalize_then_sum":
        message = (
            "has no effect with multi_objective_aggregation normalize_then_sum, which scales each reward in its group"
        )
        yield "scale_rewards", f"{message}; delete the key"
    if trainer.get("mask_truncated_completions") and "missing_eos_penalty" in trainer:
        message = "has no effect with mask_truncated_completions: true, which leaves completions without an end out of the loss"
        yield "missing_eos_penalty", f"{message}; delete one of the two"
    if trainer.get("sync_ref_model") and "kl_coef" not in defaults and not trainer.get("beta"):
        yield "sync_ref_model", "needs a reference model, which beta: 0 leaves out; set beta above 0, or delete the key"
    yield from _vllm_ratio_problems(trainer, loss)


def _is_of_ratio(key: str, trainer: dict[str, Any], loss: str) -> bool:
    """Say whether a field does nothing where the ratio to the policy of the rollout is 1."""
    if key == "importance_sampling_level":
        return trainer[key] == "sequence" and loss != "luspo"  # which takes no other level
    if key == "off_policy_mask_threshold":
        return not trainer.get("use_vllm")  # whose probabilities differ from the trainer's
    if (
        key.startswith("vespo_")
        and trainer.get("use_vllm")
        and trainer.get("vllm_importance_sampling_correction", True)
    ):
        return False  # TRL puts the correction into the weights of vespo
    return loss in READ_BY_LOSSES.get(key, ()) and (key, loss) != ("epsilon_high", "cispo")


def _sequence_problems(trainer: dict[str, Any], loss: str) -> Iterator[tuple[str, str]]:
    """Yield combinations of a loss with `importance_sampling_level` that are not the loss of any paper."""
    level = trainer.get("importance_sampling_level", "token")
    if loss == "luspo" and level != "sequence":
        yield "loss_type", "luspo weights whole sequences; set importance_sampling_level: sequence as well"
    if level != "sequence":
        return
    if loss == "vespo":
        yield "importance_sampling_level", "sequence: vespo makes weights of sequences itself; delete the key"
    elif "loss_type" not in trainer:
        message = f"sequence: the default loss_type, {loss}, would weight each completion by its length"
        yield "importance_sampling_level", f"{message}; set loss_type: grpo (GSPO) or luspo"


def _vllm_ratio_problems(trainer: dict[str, Any], loss: str) -> Iterator[tuple[str, str]]:
    """Yield settings with which TRL's correction for vLLM's probabilities would use a wrong ratio, or could not be applied."""
    if not trainer.get("use_vllm") or trainer.get("vllm_importance_sampling_correction") is False:
        return
    off = "set vllm_importance_sampling_correction: false"
    settings = trainer.get("generation_kwargs")
    places = {"": trainer, "generation_kwargs": settings if isinstance(settings, dict) else {}}
    for place, section in places.items():
        for key in SMOOTHED.keys() & section.keys():
            if section[key] not in (None, SMOOTHED[key]):
                message = (
                    f"{show(section[key])} changes the probabilities of vLLM but not those of the trainer, so that "
                    "vllm_importance_sampling_correction (true by default) would correct by a wrong ratio"
                )
                yield place or key, f"{f'{key} ' if place else ''}{message}; expected {SMOOTHED[key]:g}, or {off}"
    mode = trainer.get("vllm_importance_sampling_mode", "sequence_mask")
    if loss == "vespo" and not mode.startswith("token_"):
        message = f"vespo needs vllm_importance_sampling_mode token_truncate or token_mask, got {mode}"
        yield "loss_type", f"{message}; or {off}"


def _narrowed(name: str, hint: Any) -> Key:
    """Return the type of a trainer's field with this module's choices and range."""
    if name in CHOICES and hint is str:
        hint = Literal[CHOICES[name]]
    return Key(Annotated[hint, RANGES[name]] if name in RANGES else hint)


def _check_together(trainer: dict[str, Any], config_class: type) -> Iterator[Problem]:
    """Yield what a config class refuses, such as settings that exclude each other; it names the first only."""
    if trainer.get("fp16") is True and trainer.get("bf16") is True:
        yield ("fp16",), "true excludes bf16: true; set one of them to false"
    # whether this machine has a GPU is not about the recipe
    here = {"output_dir": "outputs", "bf16": False, "fp16": False, "tf32": None}
    with warnings.catch_warnings(action="ignore"):
        try:
            config_class(**trainer | here)
        except ImportError:
            return  # a package that this machine lacks is reported before training
        except (ValueError, TypeError, ArithmeticError, OSError) as error:
            yield refusal(error, trainer, config_class)


def refusal(error: Exception, trainer: dict[str, Any], config_class: type) -> Problem:
    """Return an error of a config class as a problem of the key that its message names; of several, of one that is set."""
    message = " ".join(str(error).split())
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    named = [word for word in re.findall(r"\w+", message) if word in defaults]
    if "generation_batch_size" in named and "generation_batch_size" not in trainer:
        named += BATCH_FIELDS
        message += (
            f" (generation_batch_size is {BATCH_FIELDS[0]} × processes × {BATCH_FIELDS[1]}, which is {BATCH_FIELDS[2]} "
            "unless it is set)"
        )
    named += [name for name, value in trainer.items() if isinstance(value, str) and value in message]
    key = next((word for word in named if word in trainer), named[0] if named else None)
    if key is None:
        return (), message
    if message.startswith(f"{key}: "):  # one of our own classes
        return (key,), message.removeprefix(f"{key}: ")
    if key in ("bf16", "fp16"):
        message += " On a machine without a GPU, expected false"
    value = show(trainer[key]) if key in trainer else f"{show(defaults[key])}, the default,"
    return (key,), f"{value} is refused: {message}"

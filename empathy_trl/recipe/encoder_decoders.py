"""Encoder-decoders such as T5: how a recipe is known to train one, and what of `model:` and `trainer:` does not go with it."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from empathy_trl.recipe.layers import LABEL_TASKS, stage_of
from empathy_trl.recipe.trainer_options import import_class
from empathy_trl.recipe.validation import Problem, show
from empathy_trl.templates import CHAT_TEMPLATES

ENCODER_DECODERS = ("t5",)  # of the models that can be made from scratch
# settings of GRPO and PPO -> why they are for decoders only
FOR_DECODERS = {
    "use_vllm": "vLLM would be given a prompt to continue, and serves no T5; transformers generates instead",
    "use_transformers_continuous_batching": "its paged cache has no place for an encoder",
    "cast_lm_head_to_fp32": "TRL looks for the parts of a decoder",
}
FOR_ONE_SEQUENCE = "its prompt and its completion are two sequences, and the trainer for those has no such setting"
SHARED_WITH_SFT = ("max_length", "pad_to_multiple_of")  # what `SFTConfig` adds, and Seq2SeqConfig keeps the meaning of


def check_encoder_decoder(name: str, contents: dict[str, dict], config_classes: dict[str, str]) -> Iterator[Problem]:
    """Yield what does not go with the kind of model that a stage trains, where that can be known without the network.

    Args:
        name: of the stage.
        contents: stage name -> its keys, of this stage and those before it.
        config_classes: see `load_recipe`.
    """
    model, trainer, task = (contents[name].get(key) for key in ("model", "trainer", "task"))
    found = _is_encoder_decoder(model, contents)
    template = model.get("chat_template") if isinstance(model, dict) else None
    if isinstance(template, str) and template in CHAT_TEMPLATES and (found is False or task in LABEL_TASKS):
        yield ("model", "chat_template"), f"{show(template)} is the input of an encoder-decoder; leave it out"
    if found and isinstance(trainer, dict) and isinstance(task, str) and task in config_classes:
        for key, message in decoder_settings(trainer, import_class(config_classes[task])):
            yield ("trainer", key), message


def decoder_settings(settings: Mapping[str, Any], config_class: type) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for settings that an encoder-decoder cannot be trained with and that are not the default.

    Args:
        settings: of a trainer.
        config_class: `trl.SFTConfig`, `trl.GRPOConfig`, or a subclass.
    """
    fields = {field.name: field.default for field in dataclasses.fields(config_class)}
    reasons = FOR_DECODERS | dict.fromkeys(_for_one_sequence(config_class), FOR_ONE_SEQUENCE)
    for key, reason in reasons.items():
        if key in settings and key in fields and settings[key] != fields[key]:
            yield key, f"{show(settings[key])}, but the model is an encoder-decoder: {reason}; leave it out"


def _for_one_sequence(config_class: type) -> list[str]:
    """Return the fields by which `trl.SFTConfig` differs from what every trainer takes; none for other configs."""
    from transformers import TrainingArguments
    from trl import SFTConfig

    if not issubclass(config_class, SFTConfig):
        return []
    common = {field.name for field in dataclasses.fields(TrainingArguments)} | {*SHARED_WITH_SFT}
    return [field.name for field in dataclasses.fields(SFTConfig) if field.name not in common]


def _is_encoder_decoder(model: Any, contents: dict[str, dict]) -> bool | None:
    """Return whether a `model:` section is an encoder-decoder; None where only the Hub knows, or the section is wrong."""
    if not isinstance(model, dict):
        return None
    if isinstance(scratch := model.get("from_scratch"), dict):
        return scratch.get("architecture") in ENCODER_DECODERS
    origin = model.get("name_or_path")
    if (stage := stage_of(origin)) is not None:
        content = contents.get(stage)
        others = {name: each for name, each in contents.items() if name != stage}  # a stage may name itself by mistake
        return None if content is None else _is_encoder_decoder(content.get("model"), others)
    return _config_says(origin) if isinstance(origin, str) else None


def _config_says(folder: str) -> bool | None:
    """Return what the config.json in a folder says, or None where there is none that can be read."""
    try:
        with open(os.path.join(os.path.expanduser(folder), "config.json"), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return None
    return bool(config.get("is_encoder_decoder", False)) if isinstance(config, dict) else None

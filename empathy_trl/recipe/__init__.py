"""Recipes: how a YAML file becomes a checked `Recipe`.

A recipe is one stage of training, or several under `stages:` with the keys of the top level as their defaults:

    task: sft                                   # which trainer (`empathy_trl.tasks`)
    model: {name_or_path: Qwen/Qwen2.5-3B-Instruct, lora: {r: 16}}
    data: {name: ed4, path: sample}
    evaluation: {split: test}
    stages:
      sft:
        trainer: {learning_rate: 1e-4}          # fields of the task's TRL config class
      grpo:
        task: grpo
        model: {name_or_path: stage:sft}        # the model that an earlier stage made
        rewards: {emotion_accuracy: {}, format: {weight: 0.2, tags: [reasoning, answer]}}

`load_recipe` (in `load`) reads the file and merges base recipe, top level, stages and command line (`layers`). It checks every
key (`schema`, `validate`, `checks`) before anything is loaded. A run uses `stages` for the folders and inputs of its
stages, and `provenance` for the record of versions, machine, time and energy.
"""

from empathy_trl.recipe.load import (
    PRESETS,
    SHIPPED,
    find_recipe,
    is_on_hub,
    load_data,
    load_recipe,
    load_seeds,
    pin_recipe,
)
from empathy_trl.recipe.schema import (
    Data,
    Evaluation,
    FromScratch,
    Hub,
    Lora,
    Model,
    Recipe,
    Stage,
)

__all__ = [
    "PRESETS",
    "SHIPPED",
    "Data",
    "Evaluation",
    "FromScratch",
    "Hub",
    "Lora",
    "Model",
    "Recipe",
    "Stage",
    "find_recipe",
    "is_on_hub",
    "load_data",
    "load_recipe",
    "load_seeds",
    "pin_recipe",
]

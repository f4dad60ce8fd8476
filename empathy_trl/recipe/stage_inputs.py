"""What `stage:<name>` in a recipe stands for: the model that an earlier stage made, in that stage's folder.

What goes into a stage's training: its rows, their labels, and the texts that a new tokenizer learns from.
"""

import re
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.recipe.layers import LABEL_TASKS, stage_of


def resolve_model(model, stage_folders: dict[str, Path]):
    """Return the model section with `stage:<name>` replaced by the folder of that stage."""
    name = stage_of(model.name_or_path)
    return model if name is None else model.model_copy(update={"name_or_path": str(stage_folders[name])})


def resolve_rewards(rewards: dict, stage_folders: dict[str, Path]) -> dict:
    """Return a `rewards` section with `model: stage:<name>` replaced by the folder of that stage."""
    resolved = {}
    for key, reward in rewards.items():
        name = stage_of(reward.params.get("model"))
        if name is not None:
            reward = reward.with_model(str(stage_folders[name]))
        resolved[key] = reward
    return resolved


def rewards_of(recipe, stage) -> dict:
    """Return the rewards of a stage, to be explained; models of stages are where `run.py` leaves them.

    Raises:
        UserError: the stage has no rewards, or one of them asks the model of a stage that is not trained.
    """
    if not stage.rewards:
        having = [name for name, other in recipe.stages.items() if other.rewards]
        raise UserError(f"--stage {stage.name}: has no rewards (stages that have: {', '.join(having) or 'none'})")
    folders = {name: Path("outputs") / recipe.name / name for name in recipe.stages}
    for name, reward in stage.rewards.items():
        for judge in stages_in({name: reward}):
            if not folders[judge].is_dir():
                flag = f"--stages.{stage.name}.rewards.{name}.model"
                raise UserError(
                    f"rewards.{name}.model: stage {judge} has no model in {folders[judge]}; train it with recipes/run.py, "
                    f"name its folder with {flag} FOLDER, or leave the reward out with {flag.removesuffix('.model')} null"
                )
    return resolve_rewards(stage.rewards, folders)


def resolve_critic(config, stage_folders: dict[str, Path]) -> None:
    """Replace `critic_name_or_path: stage:<name>` in a trainer's config, where it has one, by the folder of that stage."""
    name = stage_of(getattr(config, "critic_name_or_path", None))
    if name is not None:
        config.critic_name_or_path = str(stage_folders[name])


def resolve_classifiers(stage, stage_folders: dict[str, Path]):
    """Return a stage whose evaluation has folders in place of `stage:<name>` for its classifiers."""
    named = {kind: stage_of(model) for kind, model in classifiers_of(stage).items()}
    folders = {kind: str(stage_folders[name]) for kind, name in named.items() if name is not None}
    if not folders:
        return stage
    classifiers = stage.evaluation.classifiers.model_copy(update=folders)
    return stage.model_copy(update={"evaluation": stage.evaluation.model_copy(update={"classifiers": classifiers})})


def classifiers_of(stage) -> dict[str, str]:
    """Return kind -> model of the classifiers that judge a stage's replies; none for a stage that predicts labels."""
    classifiers = stage.evaluation.classifiers
    if stage.task in LABEL_TASKS or classifiers is None:
        return {}
    named = {"epitome": classifiers.epitome, "emotion": classifiers.emotion, "intent": classifiers.intent}
    return {kind: model for kind, model in named.items() if model is not None}


def judging_rewards(recipe, stage, stage_folders: dict[str, Path]) -> dict:
    """Return the rewards by which a stage's replies are judged: its own, or those of the next stage that has some.

    A warm start is judged by what comes after it, so that the two can be compared.
    """
    return resolve_rewards(_judging(recipe, stage), stage_folders)


def judging_stages(recipe, stage) -> set[str]:
    """Return the stages that have to be trained before a stage can be evaluated: those whose models judge its replies."""
    if stage.task in LABEL_TASKS:
        return set()
    classifiers = {stage_of(model) for model in classifiers_of(stage).values()} - {None}
    return classifiers | set(stages_in(_judging(recipe, stage)))


def stages_in(rewards: dict) -> list[str]:
    """Return the stages whose models judge in a `rewards` section, as in `model: stage:reward`."""
    named = [stage_of(reward.params.get("model")) for reward in rewards.values()]
    return [name for name in named if name is not None]


def _judging(recipe, stage) -> dict:
    later = list(recipe.stages)[list(recipe.stages).index(stage.name) :]
    return next((recipe.stages[name].rewards for name in later if recipe.stages[name].rewards), {})


def local_rows(stage) -> dict[str, tuple]:
    """Return split -> (rows, report) for the splits a stage trains and is evaluated on; empty for data on the Hub.

    Raises:
        DataError: a file or a row cannot be used.
        UserError: from `label_targets`.
    """
    from empathy_trl.data import read_split
    from empathy_trl.io import on_hub

    if stage.task in LABEL_TASKS:
        label_targets(stage)
    if on_hub(stage.data.path, needs_owner=True):
        return {}
    chosen_by = ("valid",) if stage.task in LABEL_TASKS else ()  # the split by which the best checkpoint is chosen
    return {
        split: read_split(stage.data, split) for split in dict.fromkeys(("train", *chosen_by, stage.evaluation.split))
    }


def stage_rows(stage, split: str):
    """Return one split of a stage's data as its task needs it, a `datasets.Dataset`."""
    from empathy_trl.data import build

    return build(stage.data, split, stage.task)


def is_pairwise(stage) -> bool:
    """Say whether a stage learns which of two replies is better, instead of how good each is."""
    return stage.task == "regress" and stage.trainer.get("objective") == "pairwise"


def label_targets(stage):
    """Return the `Targets` of a stage with task regress or classify.

    Raises:
        UserError: pairs are to be learned from data without contexts, or from several ratings at once.
    """
    from empathy_trl.data import CORPORA, corpus
    from empathy_trl.models.label_schema import Targets

    data = corpus(stage.data.name, stage.data.builder)
    found = data.targets(stage.data)
    if not is_pairwise(stage):
        return Targets(stage.task, found)
    key = f"stages.{stage.name}.trainer.objective: pairwise"
    if not data.comparable:
        fitting = ", ".join(name for name in CORPORA if corpus(name).comparable)
        raise UserError(
            f"{key} compares replies to one context, and {stage.data.name} has none (data that do: {fitting})"
        )
    if len(found) != 1:
        raise UserError(f"{key} compares by one rating, not by {', '.join(found)}; name it with data.ranges")
    return Targets("compare", found)


def describe_input(config, stage, max_length: int) -> None:
    """Note in a model's config how texts were prepared, so that they are prepared alike wherever the model is used."""
    from empathy_trl.data import corpus

    config.text_max_length = max_length
    config.text_normalization = corpus(stage.data.name, stage.data.builder).normalization(stage.data)


def label_texts(train) -> list[str]:
    """Return the texts that the tokenizer of an encoder from scratch learns from."""
    return [text for column in ("text", "pair") if column in train.column_names for text in train[column]]


def scratch_texts(train) -> tuple[list[str], list[str]]:
    """Return the texts that a from-scratch tokenizer learns from, and the tags that occur in them."""
    parts = [column for column in ("prompt", "completion") if column in train.column_names]
    texts = [message["content"] for row in train for part in parts for message in row[part]]
    return texts, sorted({tag for text in texts for tag in re.findall(r"</(\w+)>", text)})


def scratch_tokenizer(stage):
    """Return the tokenizer that a stage with `model.from_scratch` will get."""
    from empathy_trl.models.classifier import build_encoder_tokenizer
    from empathy_trl.models.tiny import build_tokenizer

    scratch, train = stage.model.from_scratch, stage_rows(stage, "train")
    if stage.task in LABEL_TASKS:
        return build_encoder_tokenizer(label_texts(train), scratch.vocab_size, scratch.max_length)
    texts, tags = scratch_texts(train)
    return build_tokenizer(texts, scratch.vocab_size, tags)

"""What `stage:<name>` in a recipe stands for: the model that an earlier stage made, in that stage's folder."""

from pathlib import Path

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
            reward = reward.model_copy(update={"params": reward.params | {"model": str(stage_folders[name])}})
        resolved[key] = reward
    return resolved


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

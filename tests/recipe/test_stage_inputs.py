"""Models that earlier stages made."""

from pathlib import Path

import pytest

from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.stage_inputs import (
    classifiers_of,
    judging_rewards,
    judging_stages,
    resolve_classifiers,
    resolve_model,
    resolve_rewards,
)

FOLDERS = {name: Path("out") / name for name in ("reward", "sft", "grpo")}


def test_stage_reference_becomes_its_folder():
    model = load_recipe("ed4_tiny").stages["grpo"].model
    assert resolve_model(model, {"sft": Path("out/sft")}).name_or_path == str(Path("out/sft"))
    assert model.name_or_path == "stage:sft"


@pytest.fixture
def wassa():
    return load_recipe("wassa_tiny")


def test_a_reward_s_model_becomes_its_folder(wassa):
    rewards = wassa.stages["grpo"].rewards
    assert resolve_rewards(rewards, FOLDERS)["empathy_model"].params["model"] == str(FOLDERS["reward"])
    assert rewards["empathy_model"].params["model"] == "stage:reward"


def test_a_warm_start_is_judged_by_the_rewards_that_come_after_it(wassa):
    first, last = (judging_rewards(wassa, wassa.stages[name], FOLDERS) for name in ("sft", "grpo"))
    assert first == last == resolve_rewards(wassa.stages["grpo"].rewards, FOLDERS)


@pytest.fixture
def classified():
    """wassa_tiny whose replies are judged by the model of its first stage, and by one from the Hub."""
    recipe = load_recipe("wassa_tiny", ["--evaluation.classifiers.emotion", "me/emotions"])
    for name, stage in recipe.stages.items():
        classifiers = stage.evaluation.classifiers.model_copy(update={"intent": "stage:intent"})
        evaluation = stage.evaluation.model_copy(update={"classifiers": classifiers})
        recipe.stages[name] = stage.model_copy(update={"evaluation": evaluation})
    return recipe


def test_a_classifier_s_stage_becomes_its_folder(classified):
    stage = classified.stages["grpo"]
    resolved = resolve_classifiers(stage, FOLDERS | {"intent": Path("out/intent")})
    assert classifiers_of(resolved) == {"emotion": "me/emotions", "intent": str(Path("out/intent"))}
    assert classifiers_of(stage)["intent"] == "stage:intent"


def test_replies_wait_for_their_classifiers_and_labels_for_none(classified):
    assert judging_stages(classified, classified.stages["sft"]) == {"reward", "intent"}
    assert judging_stages(classified, classified.stages["reward"]) == set()
    assert classifiers_of(classified.stages["reward"]) == {}


def test_without_classifiers_a_stage_stays_as_it_is(wassa):
    assert resolve_classifiers(wassa.stages["grpo"], {}) is wassa.stages["grpo"]

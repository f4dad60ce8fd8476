"""Models that earlier stages made."""

from pathlib import Path

import pytest

from empathy_trl.recipe import load_recipe
from empathy_trl.stage_models import judging_rewards, resolve_model, resolve_rewards
from empathy_trl.tasks import CONFIG_CLASSES

FOLDERS = {name: Path("out") / name for name in ("reward", "sft", "grpo")}


def test_stage_reference_becomes_its_folder():
    model = load_recipe("ed4_tiny", [], CONFIG_CLASSES).stages["grpo"].model
    assert resolve_model(model, {"sft": Path("out/sft")}).name_or_path == str(Path("out/sft"))
    assert model.name_or_path == "stage:sft"


@pytest.fixture
def wassa():
    return load_recipe("wassa_tiny", [], CONFIG_CLASSES)


def test_a_reward_s_model_becomes_its_folder(wassa):
    rewards = wassa.stages["grpo"].rewards
    assert resolve_rewards(rewards, FOLDERS)["empathy_model"].params["model"] == str(FOLDERS["reward"])
    assert rewards["empathy_model"].params["model"] == "stage:reward"


def test_a_warm_start_is_judged_by_the_rewards_that_come_after_it(wassa):
    first, last = (judging_rewards(wassa, wassa.stages[name], FOLDERS) for name in ("sft", "grpo"))
    assert first == last == resolve_rewards(wassa.stages["grpo"].rewards, FOLDERS)

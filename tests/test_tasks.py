"""The dispatch of tasks to trainers, and what is checked before the first stage."""

from types import SimpleNamespace

import pytest
import torch

from empathy_trl.errors import UserError
from empathy_trl.models.classifier import new_classifier
from empathy_trl.models.label_schema import Targets
from empathy_trl.recipe import load_recipe
from empathy_trl.tasks import (
    TASKS,
    check_devices,
    load_trained,
    missing_extras,
    trainer_config,
    trainer_options,
)


def stage_of(name, stage, *overrides):
    return load_recipe(name, list(overrides), training=False).stages[stage]


def test_what_the_config_class_refuses_is_an_error_of_the_user(tmp_path):
    stage = stage_of("ed4_tiny", "grpo", "--stages.grpo.trainer.auto_find_batch_size", "true")
    with pytest.raises(
        UserError, match="stages.grpo.trainer.auto_find_batch_size: true is refused: auto_find_batch_size is not supp"
    ):
        trainer_config(stage, tmp_path)


def test_seed_and_folder_reach_the_config(tmp_path):
    config = trainer_config(stage_of("ed4_tiny", "sft", "--seed", "7"), tmp_path)
    assert (config.seed, config.output_dir, config.report_to) == (7, str(tmp_path), [])


def test_the_trainer_itself_pushes_nothing(tmp_path):
    config = trainer_config(
        stage_of("ed4_tiny", "grpo", "--hub.repo_id", "me/it", "--hub.push", "every_save"), tmp_path
    )
    assert (config.push_to_hub, config.hub_model_id) == (False, None)


def test_missing_extras_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    stage = stage_of("ed4_gemma", "grpo", "--model.load_in_4bit", "true", "--evaluation.bertscore", "roberta-large")
    assert missing_extras(stage) == [
        'vllm (pip install "empathy-trl[vllm]")',
        'bitsandbytes (pip install "empathy-trl[quantization]")',
        'bert_score (pip install "empathy-trl[bertscore]")',
        'deepspeed (pip install "empathy-trl[deepspeed]")',
    ]
    assert missing_extras(stage_of("ed4_tiny", "sft")) == (['deepspeed (pip install "empathy-trl[deepspeed]")'])


def test_the_device_of_foresight_has_to_be_here():
    options = ["--stages.grpo.rewards.foresight.model", "me/it", "--stages.grpo.rewards.foresight.device", "cuda:99"]
    with pytest.raises(UserError, match="stages.grpo.rewards.foresight.device: 'cuda:99' is not here"):
        check_devices(stage_of("empath_tiny", "grpo", *options))


@pytest.mark.parametrize("processes, sequences", [("1", 24), ("4", 96)])
def test_sequences_per_step(monkeypatch, processes, sequences):
    monkeypatch.setenv("WORLD_SIZE", processes)
    stage = stage_of(
        "ed4_tiny", "grpo", "--stages.grpo.trainer.per_device_train_batch_size", "8",
        "--stages.grpo.trainer.gradient_accumulation_steps", "3", "--stages.grpo.trainer.num_generations", "8",
    )  # fmt: skip
    assert trainer_options(stage)["sequences"] == sequences


def test_the_seed_alone_decides_the_weights_of_an_adapter_on_an_encoder(tmp_path):
    scratch = SimpleNamespace(architecture="roberta", hidden_size=16, layers=1, heads=2, vocab_size=300, max_length=32)
    base = new_classifier(
        SimpleNamespace(from_scratch=scratch), Targets("classify", {"x": ("a", "b")}), seed=0, texts=["hello"]
    )
    for part in base:
        part.save_pretrained(tmp_path / "base")

    def first_weight(seed, drawn_before):
        torch.rand(drawn_before)  # by an earlier stage of the same run, or nothing where that one was skipped
        overrides = ["--model.name_or_path", str(tmp_path / "base"), "--trainer.max_length", "32"]
        overrides += ["--trainer.bf16", "false", "--seed", str(seed)]
        stage = stage_of("wassa_reward", "turns", *overrides)
        trainer = TASKS["regress"].build(stage, tmp_path / "out", {})
        return next(weight for name, weight in trainer.model.named_parameters() if "lora_A" in name)

    assert torch.equal(first_weight(1, 0), first_weight(1, 5))
    assert not torch.equal(first_weight(1, 0), first_weight(2, 0))


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (["Emotion", "EmotionalPolarity", "Empathy"], True),
        (["LABEL_0", "LABEL_1", "LABEL_2"], True),  # nobody named them
        (["Empathy", "EmotionalPolarity", "Emotion"], False),
        (["LABEL_0", "LABEL_1"], False),
        (["sad", "joyful", "angry"], False),
    ],
)
def test_a_model_with_other_outputs_than_the_stage_is_refused(make_classifier, names, fits):
    stage = stage_of("wassa_tiny", "reward")
    folder = make_classifier({"a": [0.0] * len(names)}, id2label=dict(enumerate(names)), problem_type="regression")
    model = stage.model.model_copy(update={"name_or_path": folder, "from_scratch": None})
    if fits:
        assert len(load_trained(stage, model)[0].score(["a"])[0]) == 3
    else:
        with pytest.raises(
            UserError, match=f"its outputs are {', '.join(names)}; those of stage reward .* are Emotion, E"
        ):
            load_trained(stage, model)

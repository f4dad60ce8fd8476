"""Losses of ratings and labels, the figures that choose a checkpoint, and a training that learns."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional
from transformers import DataCollatorWithPadding, set_seed

from empathy_trl.errors import UserError
from empathy_trl.models.classifier import new_classifier
from empathy_trl.models.label_schema import Targets
from empathy_trl.trainers.classify import (
    HeldOut,
    LabelConfig,
    LabelLoss,
    LabelTrainer,
    MergeAdapter,
    RegressConfig,
    encode,
    held_out_labels,
    label_metrics,
)
from tests.trainers.settings import quiet_config

RATINGS = Targets("regress", {"Emotion": (0, 5), "Empathy": (0, 5)})
LEVELS = Targets("classify", {"reactions": ("0", "1"), "explorations": ("0", "1", "2")})
WARM, COLD = ["so sorry for you", "that must hurt"], ["whatever, fine", "not my problem"]


def outputs(logits):
    return {"logits": torch.tensor(logits)}


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"loss": "mse"}, (0.2**2 + 3.0**2 + 0 + 0) / 4),
        ({}, (0.2**2 / 2 + 0.5 * (3.0 - 0.25) + 0 + 0) / 4),
        ({"huber_delta": 10.0}, (0.2**2 / 2 + 3.0**2 / 2 + 0 + 0) / 4),
    ],
)
def test_losses_of_ratings_by_hand(settings, expected):
    labels = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    loss = LabelLoss(RATINGS, **settings)(outputs([[1.2, 4.0], [2.0, 2.0]]), labels)
    assert loss.item() == pytest.approx(expected)


def test_loss_of_groups_is_the_mean_of_their_cross_entropies():
    logits, labels = torch.randn(4, 5), torch.tensor([[0, 2], [1, 0], [1, 1], [0, 0]])
    first = functional.cross_entropy(logits[:, :2], labels[:, 0]).item()
    second = functional.cross_entropy(logits[:, 2:], labels[:, 1]).item()
    loss = LabelLoss(LEVELS)(outputs(logits.tolist()), labels).item()
    assert loss == pytest.approx((first + second) / 2, abs=1e-6)


def test_a_batch_in_parts_has_the_loss_of_the_whole():
    logits, labels, loss = torch.randn(5, 2).tolist(), torch.rand(5, 2), LabelLoss(RATINGS)
    whole = loss(outputs(logits), labels)
    parts = [loss(outputs(logits[part]), labels[part], num_items_in_batch=10) for part in (slice(0, 2), slice(2, 5))]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-6)


def test_metrics_name_every_rating_and_group():
    gold = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 0.0]])
    metrics = label_metrics(RATINGS)(SimpleNamespace(predictions=gold * [1, -1], label_ids=gold))
    assert metrics == pytest.approx({"pearson_Emotion": 1, "pearson_Empathy": -1, "pearson_mean": 0})
    assert RATINGS.figures == ["pearson_mean", "pearson_Emotion", "pearson_Empathy", "loss"]
    logits = np.array([[1.0, 0, 0, 0, 1], [1.0, 0, 0, 0, 1]])
    metrics = label_metrics(LEVELS)(SimpleNamespace(predictions=logits, label_ids=np.array([[0, 2], [1, 2]])))
    assert metrics == pytest.approx({"accuracy_reactions": 0.5, "accuracy_explorations": 1, "accuracy_mean": 0.75})
    assert set(LEVELS.figures) == {*metrics, "loss"}


@pytest.mark.parametrize("targets, width", [(RATINGS, 2), (LEVELS, 5)])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_training_that_diverged_is_no_checkpoint_to_choose(targets, width, broken):
    logits = np.zeros((2, width))
    logits[1, 0] = broken
    with pytest.raises(UserError, match=r"gives nan or infinity; lower trainer\.learning_rate"):
        label_metrics(targets)(SimpleNamespace(predictions=logits, label_ids=np.zeros((2, 2))))


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        (RegressConfig, {"loss": "l1"}, "loss: 'l1' should be 'huber' or 'mse'"),
        (RegressConfig, {"huber_delta": 0}, "huber_delta: 0 should be above 0"),
        (RegressConfig, {"label_smoothing_factor": 0.1}, "label_smoothing_factor: 0.1 is for labels"),
        (LabelConfig, {"eval_steps": 7, "save_steps": 5}, r"eval_steps: 7 should be save_steps \(5\)"),
        (LabelConfig, {"batch_eval_metrics": True}, "batch_eval_metrics: true prevents the figures .*; expected false"),
        (
            LabelConfig,
            {"dataloader_drop_last": True},
            "dataloader_drop_last: true prevents the figures on all rows of `valid`",
        ),
        (LabelConfig, {"eval_do_concat_batches": False}, "eval_do_concat_batches: false prevents .*; expected true"),
        (LabelConfig, {"label_names": ["label"]}, r"label_names: \['label'\] prevents the figures .*; expected null"),
        (RegressConfig, {"prediction_loss_only": True}, "prediction_loss_only: true prevents the figures"),
        (
            RegressConfig,
            {"objective": "pairwise", "train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy: 'group_by_length' is not supported with objective pairwise",
        ),
    ],
)
@pytest.mark.faults
def test_settings_that_make_no_sense_are_refused(tmp_path, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(output_dir=str(tmp_path), **settings)


@pytest.mark.parametrize("kind, metric", [(RegressConfig, "pearson_mean"), (LabelConfig, "accuracy_mean")])
def test_the_best_checkpoint_is_kept_where_checkpoints_are(tmp_path, kind, metric):
    config = kind(output_dir=str(tmp_path), save_strategy="steps", save_steps=5)
    assert (config.eval_strategy, config.eval_steps, config.load_best_model_at_end) == ("steps", 5, True)
    assert (config.metric_for_best_model, config.greater_is_better) == (metric, True)
    assert not kind(output_dir=str(tmp_path), save_strategy="no").load_best_model_at_end


def rows():
    return Dataset.from_dict({"text": (WARM + COLD) * 8, "labels": ([[4.0, 5.0]] * 2 + [[1.0, 0.0]] * 2) * 8})


def train(folder, lora=None, **settings):
    scratch = SimpleNamespace(architecture="roberta", hidden_size=16, layers=1, heads=2, vocab_size=320, max_length=32)
    section = SimpleNamespace(from_scratch=scratch)
    model, tokenizer = new_classifier(section, RATINGS, seed=0, texts=WARM + COLD)
    set_seed(0)  # of the adapter's weights
    model = get_peft_model(model, lora) if lora else model
    options = {"max_steps": 40, "save_strategy": "steps", "save_steps": 10, "learning_rate": 0.01, "use_cpu": True}
    config = quiet_config(folder, RegressConfig, per_device_train_batch_size=8, **options | settings)
    data = encode(rows(), tokenizer, 32)
    trainer = LabelTrainer(
        model=model,
        args=config,
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_loss_func=LabelLoss(RATINGS),
        compute_metrics=label_metrics(RATINGS),
    )
    trainer.add_callback(MergeAdapter(trainer))
    trainer.add_callback(HeldOut(trainer, held_out_labels))
    trainer.train()
    return trainer


@pytest.mark.parametrize("settings", [{}, {"save_strategy": "no", "max_steps": 4}], ids=["the best", "the last"])
def test_it_learns_and_the_config_says_how_good_the_model_is_that_is_kept(tmp_path, settings):
    trainer = train(tmp_path, **settings)
    measured = trainer.evaluate()["eval_pearson_mean"]
    if not settings:
        history = [row["eval_pearson_mean"] for row in trainer.state.log_history[:-1] if "eval_pearson_mean" in row]
        assert trainer.state.best_metric == max(history) > 0.95
        assert measured == pytest.approx(max(history), abs=1e-6)
    trainer.save_model(tmp_path / "saved")
    noted = json.loads((tmp_path / "saved" / "config.json").read_text())["held_out"]
    assert noted == {"figure": "pearson_mean", "value": pytest.approx(measured, abs=1e-6), "n": 32, "split": "valid"}


@pytest.mark.faults
@pytest.mark.parametrize("is_sharded", [False, True])
def test_an_adapter_is_merged_at_the_end_and_compared(tmp_path, capsys, monkeypatch, is_sharded):
    usual = MergeAdapter.on_train_end

    def on_train_end(self, *args, **kwargs):
        monkeypatch.setattr(self.trainer, "is_fsdp_enabled", is_sharded)
        usual(self, *args, **kwargs)
        monkeypatch.setattr(self.trainer, "is_fsdp_enabled", False)

    monkeypatch.setattr(MergeAdapter, "on_train_end", on_train_end)
    lora = LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["query", "value", "word_embeddings"])
    trainer = train(tmp_path, lora=lora)
    assert "adapter merged: outputs differ by at most " in capsys.readouterr().out
    assert not list(tmp_path.glob("merg*"))
    assert not isinstance(trainer.model, PeftModel)
    assert not any("lora" in key for key in trainer.model.state_dict())
    assert trainer.evaluate()["eval_pearson_mean"] == pytest.approx(trainer.state.best_metric, abs=1e-5)
    assert trainer.model.config.held_out["value"] == pytest.approx(trainer.state.best_metric, abs=1e-5)
    trainer._save(str(tmp_path / "saved"), {"an adapter's": torch.zeros(1)})  # as an engine gathers it
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == trainer.model.state_dict().keys()

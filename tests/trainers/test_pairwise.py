"""Learning from pairs: batches, the loss by hand, figures, and a training that learns and says how good it is."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from empathy_trl.check import describe
from empathy_trl.errors import DataError, UserError
from empathy_trl.models.classifier import build_encoder_tokenizer
from empathy_trl.models.scorer import predict, shared_scorer
from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.stages import stage_runs
from empathy_trl.tasks import TASKS
from empathy_trl.trainers.classify import (
    PairCollator,
    PairDataset,
    RegressConfig,
    comparable_rows,
    encode,
    pair_loss,
    pair_metrics,
    some_pairs,
)

RECIPE = """
task: regress
data: {name: rated_replies, ranges: {overall: [1, 5]}}
model: {from_scratch: {architecture: roberta, hidden_size: 16, layers: 1, heads: 2, vocab_size: 600, max_length: 64}}
trainer: {objective: pairwise, learning_rate: 1.0e-2, max_steps: 6, save_strategy: steps, save_steps: 3, max_length: 64,
          per_device_train_batch_size: 8, logging_steps: 1, disable_tqdm: true, use_cpu: true}
"""


def rows():
    return Dataset.from_dict(
        {
            "text": ["hi", "hi", "hi", "yo"],
            "pair": ["good", "bad", "fair", "alone"],
            "labels": [[5.0], [1.0], [3.0], [4.0]],
            "context": ["x\nhi", "x\nhi", "x\nhi", "yo"],
        }
    )


def run_of(tmp_path, *overrides):
    (tmp_path / "r.yaml").write_text(RECIPE)
    return stage_runs(load_recipe(tmp_path / "r.yaml", list(overrides)), tmp_path / "out")["regress"]


def outputs(scores):
    return {"logits": torch.tensor(scores)[:, None]}


def log_sigmoid(x):
    return -math.log(1 + math.exp(-x))


def test_a_batch_holds_the_better_replies_and_then_the_worse_ones():
    tokenizer = build_encoder_tokenizer(["hi yo good bad fair alone"], 300, 32)
    replies = encode(rows(), tokenizer, 32).remove_columns("labels")
    data = PairDataset(replies, some_pairs(rows(), "train"))
    batch = PairCollator(tokenizer)([data[i] for i in range(len(data))])
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]]
    assert [text.removeprefix("hi") for text in texts] == ["good", "good", "fair", "bad", "fair", "bad"]
    assert batch["labels"].shape == (3,) and batch["attention_mask"].shape == batch["input_ids"].shape


def test_for_evaluation_replies_come_one_by_one():
    tokenizer = build_encoder_tokenizer(["hi yo good bad fair alone"], 300, 32)
    data = encode(comparable_rows(rows()), tokenizer, 32)
    batch = PairCollator(tokenizer)([data[i] for i in range(4)])
    assert batch["labels"].tolist() == [[5, 0], [1, 0], [3, 0], [4, 1]]


def test_loss_by_hand():
    better, worse = [2.0, 0.5], [1.0, 1.5]
    expected = -(log_sigmoid(1.0) + log_sigmoid(-1.0)) / 2
    assert pair_loss(outputs(better + worse), torch.zeros(2)).item() == pytest.approx(expected)


def test_a_batch_in_parts_has_the_loss_of_the_whole():
    better, worse = torch.randn(5), torch.randn(5)
    whole = pair_loss(outputs([*better, *worse]), torch.zeros(5))
    halves = [(outputs([*better[part], *worse[part]]), better[part] * 0) for part in (slice(0, 2), slice(2, 5))]
    parts = [pair_loss(scores, labels, num_items_in_batch=5) for scores, labels in halves]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-6)


def test_loss_of_evaluation_is_that_of_the_pairs_in_the_batch():
    labels = torch.tensor([[5.0, 0], [1.0, 0], [4.0, 1]])
    assert pair_loss(outputs([2.0, 0.0, 9.0]), labels).item() == pytest.approx(-log_sigmoid(2.0))
    assert pair_loss(outputs([9.0]), labels[:1]).item() == 0


def test_metrics():
    labels = np.array([[5.0, 0], [1.0, 0], [3.0, 0], [4.0, 1]])
    found = pair_metrics(SimpleNamespace(predictions=np.array([[2.0], [1.0], [3.0], [0.0]]), label_ids=labels))
    assert found == {"pair_accuracy": pytest.approx(2 / 3)}
    with pytest.raises(UserError, match="gives nan or infinity"):
        pair_metrics(SimpleNamespace(predictions=np.full((4, 1), np.nan), label_ids=labels))


def test_the_best_checkpoint_is_chosen_by_pairs(tmp_path):
    config = RegressConfig(output_dir=str(tmp_path), objective="pairwise", save_strategy="steps")
    assert (config.metric_for_best_model, config.greater_is_better) == ("pair_accuracy", True)
    with pytest.raises(ValueError, match="objective: 'ranking' should be 'regression' or 'pairwise'"):
        RegressConfig(output_dir=str(tmp_path), objective="ranking")


def test_data_without_a_pair_are_an_error():
    with pytest.raises(DataError, match="valid: no two of the 2 replies have the same context and different ratings"):
        some_pairs(rows().select([0, 3]), "valid")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["--data.ranges", "{overall: [1, 5], empathy: [1, 5]}"], r"pairwise compares by one rating, not by overall, empathy; name it"),
        (["--data.ranges", "null"], r"stages\.regress\.trainer\.objective: pairwise compares by one rating, not by empathy, info"),
        (["--data.name", "wassa", "--data.ranges", "null", "--data.split_by", "row"],
         r"compares replies to one context, and wassa has none \(data that do: rated_replies\)"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_compared_are_found_by_the_check(tmp_path, overrides, message):
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(UserError, match=message):
        describe(load_recipe(tmp_path / "r.yaml", overrides), tmp_path)


def test_the_check_counts_pairs(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE.replace("max_steps: 6", "num_train_epochs: 1"))
    plan = describe(load_recipe(tmp_path / "r.yaml"), tmp_path)
    data = run_of(tmp_path).dataset("train")
    assert f"{round(len(some_pairs(data, 'train')) / 8)} steps" in plan and "8 × 2 × " in plan


def test_it_learns_and_the_saved_model_says_how_good_it_is(tmp_path):
    run = run_of(tmp_path, "--trainer.max_steps", "60", "--trainer.save_steps", "30")
    trainer = TASKS["regress"].build(run)
    trainer.train()
    trainer.save_model(str(run.folder))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.02
    config = json.loads((run.folder / "config.json").read_text())
    held_out, moments = config["held_out"], config["score_moments"]
    valid = run.dataset("valid")
    scores = shared_scorer(str(run.folder)).score(list(zip(valid["text"], valid["pair"], strict=True)))[:, 0]
    pairs = some_pairs(valid, "valid")
    right = np.mean([scores[better] > scores[worse] for better, worse in pairs])
    assert held_out == {"figure": "pair_accuracy", "value": pytest.approx(right), "n": len(pairs), "split": "valid"}
    assert held_out["value"] == pytest.approx(trainer.state.best_metric)
    assert [moments["mean"], moments["std"]] == pytest.approx([scores.mean(), scores.std()], abs=1e-5)
    assert "label_ranges" not in config and config["id2label"] == {"0": "overall"}
    assert predict(str(run.folder), [("hi", "ok")])[0].keys() == {"overall"}

"""What modules are given: bad rows are named, and what was computed before leaves no trace."""

import numpy as np
import pytest

from empathy_trl.errors import UserError
from tests.evaluation.metrics.loaded import load

TEXT = r"expected a text \(valid Unicode\)"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("distinct_n", {"predictions": "so sorry"}, r"^predictions: expected a list .* per row, got 'so sorry'"),
        ("distinct_n", {"predictions": ["a", 3]}, rf"^predictions, row 1: {TEXT}, got 3$"),
        ("distinct_n", {"predictions": [None, "a"]}, rf"^predictions, row 0: {TEXT}, got null$"),
        ("distinct_n", {"predictions": ["a", ["b"]]}, rf"^predictions, row 1: {TEXT}, got \['b'\]$"),
        ("distinct_n", {"predictions": ["a", "\ud800"]}, rf"^predictions, row 1: {TEXT}"),
        ("distinct_n", {"predictions": []}, r"^predictions: has no rows; expected at least one$"),
        ("item_ratio", {"predictions": ["a"], "placeholder": ""}, r"^placeholder: expected what stands for an item"),
        ("emotion_accuracy", {"predictions": ["a", "b"], "references": ["a"], "labels": ["a"]}, r"^predictions has 2 rows and references has 1; expected the same number$"),
        ("emotion_accuracy", {"predictions": ["a"], "labels": ["a"]}, r"^references: expected a list with .*, got null$"),
        ("emotion_accuracy", {"predictions": ["a", "?"], "references": ["a", "b"], "labels": ["a", "b"]}, r"^predictions: 1 of 2 are an emotion, .*tagged=False$"),
        ("emotion_accuracy", {"predictions": ["a"], "references": ["a"]}, r"^labels: expected a list of all emotions .*, got null$"),
        ("emotion_accuracy", {"predictions": ["a"], "references": ["a"], "labels": "a"}, r"^labels: expected a list .*, got 'a'$"),
        ("emotion_accuracy", {"predictions": ["a"], "references": ["a"], "labels": ["a", " A"]}, r"^labels: expected different emotions, got ' A'$"),
        ("emotion_accuracy", {"predictions": ["a"], "references": ["a"], "labels": ["a", "a"]}, r"^labels: expected different .*, got 'a'$"),
        ("emotion_accuracy", {"predictions": ["a", "a"], "references": ["a", "mad"], "labels": ["a", "b"]}, r"^references, row 1: 'mad' is not one of labels \(a, b\)$"),
        ("pearson_dims", {"predictions": [[1], [float("nan")]], "references": [[1], [2]]}, r"^predictions, row 1: expected a list of finite numbers, got \[nan\]$"),
        ("pearson_dims", {"predictions": [1, 2], "references": [1, 2]}, r"^predictions, row 0: expected a list of finite numbers, got 1$"),
        ("pearson_dims", {"predictions": [["1"]], "references": [[1]]}, r"^predictions, row 0: expected a list of finite numbers, got \['1'\]$"),
        ("pearson_dims", {"predictions": [[1, 2], [1]], "references": [[1, 2], [1, 2]]}, r"^predictions, row 1: has 1 ratings; expected 2, as in the first row of references$"),
        ("pearson_dims", {"predictions": [[]], "references": [[]]}, r"^predictions, row 0: has 0 ratings; expected one or more"),
        ("pearson_dims", {"predictions": [[1]], "references": [[1]], "names": ["a", "b"]}, r"^names: expected 1 different texts, none of them 'mean', got \['a', 'b'\]$"),
        ("pearson_dims", {"predictions": [[1]], "references": [[1]], "names": ["mean"]}, r"^names: expected 1 different texts, none of them 'mean'"),
        ("epitome", {"predictions": ["a"], "references": ["a"], "prompts": ["a"]}, r"^model: expected the folder or Hub id of a classifier, got null$"),
        ("emo_acc", {"predictions": ["a"], "references": [None], "model": "x"}, rf"^references, row 0: {TEXT}, got null$"),
        ("intent_acc", {"predictions": ["a"], "references": ["a"], "model": "./none"}, r"^model: \./none: no such folder; .*intent9_tiny"),
        ("judge_aspects", {"predictions": ["a"], "prompts": [[{"role": "user"}]], "model": "m"}, r"^prompts, row 0: expected a text, or a list of messages \{role, content\} with texts"),
    ],
)  # fmt: skip
def test_bad_input_is_named(name, given, message):
    with pytest.raises(UserError, match=message):
        load(name).compute(**given)


@pytest.mark.faults
def test_a_prediction_is_read_without_its_thoughts():
    plain = load("distinct_n").compute(predictions=["so sorry", ""])
    assert load("distinct_n").compute(predictions=["<think>so so so</think>so sorry", "<think>so"]) == plain


def test_a_missing_input_is_named():
    with pytest.raises(ValueError, match=r"inputs are missing: \['prompts'\]"):
        load("epitome").compute(predictions=["a"], references=["a"], model="m")


def test_a_single_row_that_is_wrong_is_named():
    with pytest.raises(UserError, match=r"^predictions, row 0: expected a text"):
        load("distinct_n").add(prediction=3)
    with pytest.raises(UserError, match=r"^references: not an input of distinct_n \(its inputs: predictions\)$"):
        load("distinct_n").add(prediction="a", reference="b")


def test_arrays_and_columns_are_lists_too():
    from datasets import Dataset

    metric = load("pearson_dims")
    table = np.array([[1, 2], [2, 1], [4, 3]], dtype=np.float32)
    expected = metric.compute(predictions=table.tolist(), references=table.tolist())
    assert metric.compute(predictions=table, references=table) == expected
    column = Dataset.from_dict({"text": ["a b", "a"]})["text"]
    assert load("distinct_n").compute(predictions=column)["distinct_1"] == pytest.approx(2 / 3)


def test_a_computation_leaves_nothing_to_the_next(tmp_path):
    metric = load("distinct_n", tmp_path)
    assert metric.compute(predictions=["a a"])["distinct_1"] == 0.5
    assert metric.compute(predictions=["a b"])["distinct_1"] == 1.0
    with pytest.raises(UserError):
        metric.compute(predictions=["a", 3])
    assert metric.compute(predictions=["a b"])["distinct_1"] == 1.0
    assert not list(tmp_path.rglob("*.arrow"))


def test_one_that_failed_half_way_does_not_either():
    metric = load("item_ratio")
    with pytest.raises(UserError, match="placeholder"):
        metric.compute(predictions=["<movie>"], placeholder="")
    assert metric.compute(predictions=["a"])["item_ratio"] == 0.0


def test_rows_may_come_one_by_one_and_in_batches():
    metric = load("emotion_accuracy")
    metric.add(prediction="sad", reference="sad")
    metric.add_batch(predictions=["sad", "x"], references=["joyful", "sad"])
    found = metric.compute(labels=["sad", "joyful"], tagged=False)
    assert found["accuracy"] == pytest.approx(1 / 3) and found["invalid_share"] == pytest.approx(1 / 3)


def test_two_at_a_time_with_one_cache_do_not_mix(tmp_path):
    one, other = load("distinct_n", tmp_path), load("distinct_n", tmp_path)
    one.add_batch(predictions=["a a"])
    other.add_batch(predictions=["a b"])
    assert (one.compute()["distinct_1"], other.compute()["distinct_1"]) == (0.5, 1.0)

"""What a config says about outputs: names, ranges, groups, as it was written; and an error for all that it does not say."""

import numpy as np
import pytest
from transformers import PreTrainedConfig, RobertaConfig

from empathy_trl.errors import UserError
from empathy_trl.models.label_schema import (
    Targets,
    activation,
    label_groups,
    label_names,
    label_range,
    output_index,
    predicted_labels,
    probabilities,
    require,
    sigmoid,
    to_unit,
)

RATINGS = Targets("regress", {"Emotion": (0, 5), "Empathy": (1, 7)})
INTENTS = Targets("classify", {"intent": ("agreeing", "wishing", "neutral")})
LEVELS = Targets("classify", {"reactions": ("0", "1"), "explorations": ("0", "1", "2")})


def written(tmp_path, *targets, **settings):
    """Return the config of a model for the last of some targets, as it is read from a folder."""
    config = RobertaConfig(**settings)
    for each in targets:
        each.write(config)
    config.save_pretrained(tmp_path)
    return RobertaConfig.from_pretrained(tmp_path)


def test_a_config_describes_ratings(tmp_path):
    read = written(tmp_path, RATINGS)
    assert (read.num_labels, read.problem_type) == (2, "regression")
    assert read.id2label == {0: "Emotion", 1: "Empathy"} and read.label2id["Empathy"] == 1
    assert read.label_ranges == {"Emotion": [0.0, 5.0], "Empathy": [1.0, 7.0]}


def test_a_config_describes_labels(tmp_path):
    read = written(tmp_path, LEVELS)
    assert (read.num_labels, read.problem_type) == (5, "single_label_classification")
    assert read.label_groups == [["reactions", ["0", "1"]], ["explorations", ["0", "1", "2"]]]


def test_outputs_have_names():
    assert INTENTS.names == ["agreeing", "wishing", "neutral"]
    assert LEVELS.names == ["reactions:0", "reactions:1", "explorations:0", "explorations:1", "explorations:2"]
    assert RATINGS.slices() == {"Emotion": slice(0, 1), "Empathy": slice(1, 2)}
    assert LEVELS.slices() == {"reactions": slice(0, 2), "explorations": slice(2, 5)}


def test_the_likeliest_label_is_looked_for_within_its_group():
    logits = np.array([[0.0, 1.0, 9.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0, 2.0]])
    assert predicted_labels(logits, LEVELS).tolist() == [[1, 0], [0, 2]]


def config(names=("Emotion", "Empathy"), **settings):
    return PreTrainedConfig(id2label=dict(enumerate(names)), **settings)


def test_names_are_in_the_order_of_the_outputs():
    assert label_names(PreTrainedConfig(id2label={"1": "b", "0": "a"})) == ["a", "b"]
    assert label_names(PreTrainedConfig(num_labels=3)) == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_an_output_is_found_by_name():
    assert [output_index(config(), name) for name in ("Empathy", "empathy", "EMOTION")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("ranges", "given", "expected", "why"),
    [
        ({"Empathy": [0, 5]}, None, (0, 5), "the config says it"),
        ({"Empathy": [0, 5]}, [1, 7], (1, 7), "what is given goes first"),
        (None, [1, 7], (1, 7), "a model from elsewhere"),
    ],
)
def test_ranges(ranges, given, expected, why):
    assert tuple(label_range(config(label_ranges=ranges), 1, given)) == expected, why


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: output_index(config(), "Empaty"), r"dimension: the model has no output 'Empaty' \(choices: Emotion, Emp"),
        (lambda: label_range(config(), 1), "label_range: .*has no label_ranges for Empathy; give .lowest, highest. label"),
        (lambda: label_range(config(label_ranges={"Emotion": [0, 1]}), 1), "has no label_ranges for Empathy"),
        (lambda: label_groups(config(label_groups=3)), r"model: label_groups in its config\.json is 3; expected \[\[group"),
        (lambda: label_groups(config(label_groups=[["a"]])), r"label_groups in its config\.json is \[\['a'\]\]; expected"),
        (lambda: label_names(PreTrainedConfig(id2label={0: "a", 2: "b"})), "config.json has 2 names, and none for output 1"),
        (lambda: label_groups(config(label_groups=[["a", ["x"]]])), "model: has 2 outputs, but label_groups .* name 1"),
        (lambda: require(config(problem_type="multi_label_classification"), "regression"), "was trained for multi_label_cl.* expected reg"),
    ],
)  # fmt: skip
def test_what_is_not_said_is_asked_for(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("problem_type", [None, "regression"])
def test_a_model_that_does_not_say_its_kind_is_taken_at_its_word(problem_type):
    require(config(problem_type=problem_type), "regression")


def test_every_group_has_a_softmax_of_its_own():
    groups = {"reactions": ["0", "1", "2"], "intent": ["ask", "agree"]}
    settings = config("abcde", label_groups=[[group, labels] for group, labels in groups.items()])
    logits = np.log(np.array([[1, 1, 2, 1, 3], [1, 0.001, 0.001, 5, 5]], np.float32))
    found = probabilities(settings, logits)
    assert label_groups(settings) == groups
    np.testing.assert_allclose(
        found["reactions"], [[0.25, 0.25, 0.5], [1, 0.001, 0.001] / np.float64(1.002)], rtol=1e-5
    )
    np.testing.assert_allclose(found["intent"], [[0.25, 0.75], [0.5, 0.5]], rtol=1e-5)


def test_a_model_without_groups_has_one():
    found = probabilities(config(), np.array([[1000.0, -1000.0]], np.float32))
    assert list(found) == ["label"] and found["label"].tolist() == [[1.0, 0.0]]
    assert probabilities(config(), np.empty((0, 2), np.float32))["label"].shape == (0, 2)


def test_scales():
    assert to_unit(np.array([-1.0, 1.0, 2.0, 9.0]), 1, 3).tolist() == [0, 0, 0.5, 1]
    np.testing.assert_allclose(sigmoid(np.array([-1e4, -1.0, 0.0, 1e4])), [0, 1 / (1 + np.e), 0.5, 1], rtol=1e-12)


def test_what_a_base_model_said_of_its_own_outputs_is_gone(tmp_path):
    sigmoid = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    read = written(tmp_path, LEVELS, RATINGS, sentence_transformers=sigmoid)
    assert activation(read) is None and not hasattr(read, "label_groups") and list(read.label_ranges) == RATINGS.names

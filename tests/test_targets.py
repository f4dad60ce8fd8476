"""What a model puts out, and how its config says it."""

import numpy as np
from transformers import RobertaConfig

from empathy_trl.outputs import activation
from empathy_trl.targets import Targets, predicted_labels

RATINGS = Targets("regress", {"Emotion": (0, 5), "Empathy": (1, 7)})
INTENTS = Targets("classify", {"intent": ("agreeing", "wishing", "neutral")})
LEVELS = Targets("classify", {"reactions": ("0", "1"), "explorations": ("0", "1", "2")})


def test_a_config_describes_ratings(tmp_path):
    config = RobertaConfig()
    RATINGS.write(config)
    config.save_pretrained(tmp_path)
    read = RobertaConfig.from_pretrained(tmp_path)
    assert (read.num_labels, read.problem_type) == (2, "regression")
    assert read.id2label == {0: "Emotion", 1: "Empathy"} and read.label2id["Empathy"] == 1
    assert read.label_ranges == {"Emotion": [0.0, 5.0], "Empathy": [1.0, 7.0]}


def test_a_config_describes_labels(tmp_path):
    config = RobertaConfig()
    LEVELS.write(config)
    config.save_pretrained(tmp_path)
    read = RobertaConfig.from_pretrained(tmp_path)
    assert (read.num_labels, read.problem_type) == (5, "single_label_classification")
    assert read.label_groups == [["reactions", ["0", "1"]], ["explorations", ["0", "1", "2"]]]


def test_what_a_base_model_said_of_its_own_outputs_is_gone(tmp_path):
    config = RobertaConfig(sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid"})
    LEVELS.write(config)
    RATINGS.write(config)
    config.save_pretrained(tmp_path)
    read = RobertaConfig.from_pretrained(tmp_path)
    assert activation(read) is None and not hasattr(read, "label_groups") and list(read.label_ranges) == RATINGS.names


def test_outputs_have_names():
    assert INTENTS.names == ["agreeing", "wishing", "neutral"]
    assert LEVELS.names == ["reactions:0", "reactions:1", "explorations:0", "explorations:1", "explorations:2"]
    assert RATINGS.slices() == {"Emotion": slice(0, 1), "Empathy": slice(1, 2)}
    assert LEVELS.slices() == {"reactions": slice(0, 2), "explorations": slice(2, 5)}


def test_the_likeliest_label_is_looked_for_within_its_group():
    logits = np.array([[0.0, 1.0, 9.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0, 2.0]])
    assert predicted_labels(logits, LEVELS).tolist() == [[1, 0], [0, 2]]

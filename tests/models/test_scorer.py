"""The shared scorer and predict: the same numbers as a plain loop, nothing computed twice, nothing stale, no silent failure."""

import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from empathy_trl.errors import UserError
from empathy_trl.models.classifier import load_classifier
from empathy_trl.models.scorer import Counts, Scorer, predict, resolve_device, shared_scorer, token_batches

SCORES = {
    "ok": [0.5, -1.0],
    "i am so sorry to hear that your dog died": [5.0, 2.0],
    "that sounds hard": [3.0, 0.25],
    "why did they do that to you": [2.0, -3.0],
    ("my dog died", "i am so sorry"): [4.0, 1.0],
    ("my dog", "died i am so sorry"): [1.0, 4.0],
}
TEXTS = [text for text in SCORES if isinstance(text, str)]
PAIRS = [text for text in SCORES if isinstance(text, tuple)]


@pytest.fixture
def folder(make_classifier):
    return make_classifier(SCORES)


@pytest.fixture
def batches(monkeypatch):
    """The shapes of the batches that go through a model from now on."""
    shapes = []
    usual = Scorer._forward

    def forward(self, batch):
        shapes.append((len(batch["input_ids"]), max(map(len, batch["input_ids"]))))
        return usual(self, batch)

    monkeypatch.setattr(Scorer, "_forward", forward)
    return shapes


def make(folder, device="cpu", **settings):
    """Return a scorer of its own, not the shared one."""
    model, tokenizer = load_classifier(folder)
    return Scorer(model.to(device), tokenizer, folder, **settings)


def expect(scorer, texts):
    found = scorer.score(texts)
    assert (found.dtype, found.shape) == (np.float32, (len(texts), 2))
    np.testing.assert_allclose(found, [SCORES[text] for text in texts], atol=1e-4)


# Scores


@pytest.mark.parametrize("tokens_per_batch", [1, 20, 10_000], ids=["one text each", "several batches", "one batch"])
@pytest.mark.parametrize("texts", [TEXTS, PAIRS, TEXTS[::-1] + TEXTS], ids=["texts", "pairs", "duplicates"])
def test_scores_come_back_in_order(folder, texts, tokens_per_batch):
    expect(make(folder, tokens_per_batch=tokens_per_batch), texts)


@pytest.mark.parametrize(
    ("setting", "longest", "expected"),
    [({"text_max_length": 7}, 64, 7), ({}, 32, 32), pytest.param({}, int(1e30), 64, marks=pytest.mark.faults)],
    ids=["of the config", "of the tokenizer", "of the positions"],
)
def test_long_texts_lose_their_end(make_classifier, batches, setting, longest, expected, caplog):
    model, tokenizer = load_classifier(make_classifier(SCORES, **setting))
    tokenizer.model_max_length = longest
    scorer = Scorer(model, tokenizer)
    scorer.score(["that sounds hard " * 5000, "ok"])
    scorer.score([("my dog", "so sorry " * 5000)])
    assert [length for _, length in batches] == [expected, expected]
    assert scorer.counts.cut == 2 and caplog.text.count(f"1 of 2 texts are longer than {expected} tokens") == 1


@pytest.mark.faults
def test_a_text_that_just_fits_is_not_cut(make_classifier):
    scorer = make(make_classifier(SCORES, text_max_length=5))  # with the two special tokens
    scorer.score(["that sounds hard", "ok"])
    assert scorer.counts.cut == 0


def test_texts_are_prepared_as_in_training(make_classifier):
    switches = dict.fromkeys(("nfkc", "urls", "emails", "mentions", "hashtags", "control", "whitespace"), False)
    scorer = make(make_classifier({("hashtag that", "so"): [1.0]}, text_normalization=switches | {"hashtags": True}))
    np.testing.assert_allclose(scorer.score([("#hashtag that", "#so")]), [[1.0]], atol=1e-4)
    assert len(scorer._tokenize(["so\u200bso"])["input_ids"][0]) == 4 - 1  # other switches are off: one unknown word


@pytest.mark.parametrize(
    "text", ["", " \n", "🙂", "你好 مرحبا", "a\ud800b", "\x00", "zzz " * 10_000, "<answer>", "[CLS] [SEP]"]
)
def test_any_text_has_a_score(folder, text):
    assert np.isfinite(make(folder).score([text, *TEXTS])).all()


@pytest.mark.parametrize(
    ("lengths", "tokens", "expected"),
    [
        ([], 10, []),
        ([3, 9, 3, 5], 9, [[1], [3], [0, 2]]),
        ([3, 9, 3, 5], 10, [[1], [3, 0], [2]]),
        ([3, 9, 3, 5], 18, [[1, 3], [0, 2]]),
        ([20, 1], 10, [[0], [1]]),
        ([2, 2, 2, 2, 2], 4, [[0, 1], [2, 3], [4]]),
    ],
)
def test_batches_are_of_about_equal_length_and_bounded(lengths, tokens, expected):
    assert list(token_batches(lengths, tokens)) == expected


# What is not computed


def test_what_was_scored_is_not_scored_again(folder, batches):
    scorer, logged = make(folder), {}
    scorer.score(TEXTS[:2])
    batches.clear()
    expect(scorer, TEXTS[:3])
    expect(scorer, PAIRS)  # whose words, joined, are the same text
    assert [rows for rows, _ in batches] == [1, 2]
    scorer.score([*TEXTS[:2], "new", "new"], logged.__setitem__)
    assert logged["cache_hit_share"] == 0.5 and logged["texts_per_second"] > 0
    counts = scorer.counts
    assert (counts.texts, counts.cache_hits, counts.forwarded) == (11, 4, 6) and 0 < counts.seconds < 60


def test_the_least_recently_used_scores_are_forgotten(folder, batches):
    scorer = make(folder, cache_size=2)
    scorer.score(TEXTS[:2])
    scorer.score(TEXTS[:1])  # used again
    scorer.score(TEXTS[2:3])  # the second is the oldest now
    batches.clear()
    expect(scorer, TEXTS[:1])
    assert not batches
    expect(scorer, TEXTS[1:2])
    assert len(batches) == 1
    expect(scorer, TEXTS)  # more than fit


# One scorer per model and device


def test_one_scorer_per_model_and_device(folder, make_classifier, monkeypatch):
    scorer = shared_scorer(folder)
    assert shared_scorer(folder, None, "cpu") is scorer
    assert shared_scorer(folder, None, "cpu:1") is not scorer
    assert shared_scorer(make_classifier(SCORES, "other")) is not scorer
    monkeypatch.setenv("HOME", str(Path(folder).parent))
    assert shared_scorer(f"~/{Path(folder).name}") is scorer


def test_a_model_that_was_trained_again_is_loaded_again(make_classifier, folder):
    old = shared_scorer(folder)
    expect(old, TEXTS)
    make_classifier({text: [9.0, 9.0] for text in TEXTS} | {"x": [0.0, 1.0]})
    new = shared_scorer(folder)
    assert new is not old
    np.testing.assert_allclose(new.score(TEXTS), 9.0, atol=1e-4)
    assert shared_scorer(folder) is new
    (Path(folder) / "eval_test.json").touch()
    assert shared_scorer(folder) is new  # no file of the model


def test_an_adapter_is_loaded_again_when_its_base_changes(folder, tmp_path):
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(folder),
        LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"]),
    )
    model.save_pretrained(tmp_path / "adapter")
    first = shared_scorer(str(tmp_path / "adapter"))
    assert shared_scorer(str(tmp_path / "adapter")) is first
    os.utime(Path(folder) / "model.safetensors", ns=(1, 1))
    assert shared_scorer(str(tmp_path / "adapter")) is not first


def test_revisions_are_apart(make_classifier, tmp_path, monkeypatch):
    repository = tmp_path / "models--me--model"
    (repository / "refs").mkdir(parents=True)
    for revision, commit, score in (("v1", "a" * 40, 1.0), ("v2", "b" * 40, 2.0)):
        shutil.copytree(make_classifier({"ok": [score]}, revision), repository / "snapshots" / commit)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for revision, score in (("v1", 1.0), ("v2", 2.0), ("v1", 1.0)):
        np.testing.assert_allclose(shared_scorer("me/model", revision).score(["ok"]), score, atol=1e-4)


# Threads and devices


def test_many_threads_on_one_scorer(folder):
    scorer = make(folder, cache_size=2, tokens_per_batch=20)
    turns = [TEXTS[index % 4 :] + TEXTS[: index % 4] for index in range(24)]
    with ThreadPoolExecutor(6) as pool:
        for texts, found in zip(turns, pool.map(scorer.score, turns), strict=True):
            np.testing.assert_allclose(found, [SCORES[text] for text in texts], atol=1e-4)


@pytest.mark.parametrize(
    ("device", "gpus", "local_rank", "expected"),
    [
        (None, 0, None, "cpu"),
        ("cpu", 2, None, "cpu"),
        (None, 2, None, "cuda:0"),
        (None, 2, "1", "cuda:1"),
        ("cuda", 2, "1", "cuda:1"),
        ("cuda:0", 2, "1", "cuda:0"),
        (None, 1, "3", "cuda:0"),
        ("cuda", 0, None, r"device: 'cuda' is not available \(choices: cpu\)"),
        ("cuda:2", 2, None, r"device: 'cuda:2' is not available \(choices: cpu, cuda:0, cuda:1\)"),
        ("gpu", 1, None, r"device: 'gpu' is not available \(choices: cpu, cuda:0\)"),
        ("meta", 0, None, "device: 'meta' is not available"),
    ],
)
def test_devices(device, gpus, local_rank, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    if "not available" in expected:
        with pytest.raises(UserError, match=expected):
            resolve_device(device)
    else:
        assert resolve_device(device) == expected


# Failures


def test_a_broken_model_raises(folder):
    weights = load_file(Path(folder) / "model.safetensors")
    weights["classifier.bias"][1] = float("nan")
    save_file(weights, Path(folder) / "model.safetensors", {"format": "pt"})
    message = r"classifier: gives \[[\d.]+, nan\] for 'ok'; its weights are broken, or overflow"
    with pytest.raises(UserError, match=message):
        make(folder).score(["ok"])


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA"), UserError, "out of memory on cpu with 3 tokens; .*device: cuda:1, or cpu"),
        (RuntimeError("kernel"), RuntimeError, r"fails on cpu for a batch of shape \(1, 3\).*text_max_length.* kernel"),
        (IndexError("out of range"), RuntimeError, "fails .*does its tokenizer belong to it.*out of range"),
    ],
)
def test_a_failing_model_raises_and_leaves_nothing_in_the_cache(folder, error, kind, message, monkeypatch):
    scorer = make(folder)

    def fail(**inputs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(scorer.model, "forward", fail)
        with pytest.raises(kind, match=f"classifier: {message}"):
            scorer.score(["ok"])
    assert scorer.counts == Counts()
    expect(scorer, ["ok"])  # and the lock is free


def test_a_text_without_tokens_raises(folder, monkeypatch):
    scorer = make(folder)
    scorer.tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(UserError, match="its tokenizer returns no tokens for ' '"):
        scorer.score(["ok", " "])


def test_sharded_training_does_not_empty_the_scorer(folder, sharded_loading):
    expect(shared_scorer(folder), TEXTS)


NAMES = {"id2label": {0: "Emotion", 1: "EmotionalPolarity", 2: "Empathy"}}
RATINGS = {"i am sorry": [1.5, 0.5, 5.25], "ok": [0.0, 1.0, -0.25], ("a", "b"): [0.0, math.log(3), 1.0]}


def test_a_regressor_answers_in_the_units_of_its_labels(make_classifier):
    folder = make_classifier(RATINGS, **NAMES, label_ranges={"Empathy": [0, 5]}, problem_type="regression")
    found = predict(folder, ["ok", "i am sorry", "ok"])
    ok, sorry = (dict(zip(NAMES["id2label"].values(), RATINGS[text], strict=True)) for text in ("ok", "i am sorry"))
    assert found == [pytest.approx(expected, abs=1e-4) for expected in (ok, sorry, ok)]  # not clipped
    assert type(found[0]["Emotion"]) is float
    assert predict(folder, []) == []


def test_a_classifier_answers_by_group_and_label(make_classifier):
    groups = [["reactions", ["0", "1"]], ["intent", ["any"]]]
    folder = make_classifier(RATINGS, label_groups=groups, problem_type="single_label_classification")
    (found,) = predict(folder, [("a", "b")])
    assert found == {"reactions": pytest.approx({"0": 0.25, "1": 0.75}, abs=1e-4), "intent": {"any": 1.0}}


def test_a_model_that_does_not_say_its_kind(make_classifier):
    folder = make_classifier(RATINGS, **NAMES)
    assert predict(folder, ["ok"], problem_type="regression")[0]["Empathy"] == pytest.approx(-0.25, abs=1e-4)
    assert list(predict(folder, ["ok"], problem_type="single_label_classification")[0]) == ["label"]
    with pytest.raises(UserError, match=r"problem_type in its config.json is None; give problem_type \(choices:"):
        predict(folder, ["ok"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("ok", "texts: a single string; expected a list of them"),
        (["ok", None], r"texts\[1\]: null is neither a string nor"),
        ([("a", None)], r"texts\[0\]: .* is neither"),
        ([("a", "b", "c")], r"texts\[0\]: .* is neither"),
    ],
)
def test_texts_of_the_wrong_kind(make_classifier, texts, message):
    folder = make_classifier(RATINGS, **NAMES, problem_type="regression")
    with pytest.raises(UserError, match=message):
        predict(folder, texts)

"""BERTScore by package bert_score: its figure worked out from the encoder's vectors, and what it cannot do said in time."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.reply_metrics import bert_scores, check_bertscore, load_bertscore

pytest.importorskip("bert_score", reason='BERTScore needs bert_score: pip install "empathy-trl[bertscore]"')
TEXTS = {"so sorry": [1.0, 0.0], "great news": [0.0, 1.0], "what happened": [0.5, 0.5]}


@pytest.fixture
def encoder(make_classifier):
    return make_classifier(TEXTS, "encoder")


@torch.no_grad()
def expected(folder, reply, reference):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    a, b = (
        torch.nn.functional.normalize(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0])
        for text in (reply, reference)
    )
    similarity = a @ b.T
    # [CLS] and [SEP] weigh nothing, but a word may be most like one of them
    precision, recall = similarity[1:-1].max(dim=1).values.mean(), similarity[:, 1:-1].max(dim=0).values.mean()
    return float(2 * precision * recall / (precision + recall))


def test_it_is_f1_of_the_best_matches(encoder):
    replies, references = ["so sorry", "so great sorry", "what news"], ["so sorry", "great news", "what happened"]
    found = bert_scores(load_bertscore(encoder), replies, references)
    pairs = zip(replies, references, strict=True)
    assert found == pytest.approx([expected(encoder, *pair) for pair in pairs], abs=1e-5)
    assert found[0] == pytest.approx(1.0) and found[1] < 1


def test_what_is_empty_has_0(encoder):
    scorer = load_bertscore(encoder)
    assert bert_scores(scorer, ["", " ", "so sorry"], ["so sorry", "so sorry", ""]) == [0.0, 0.0, 0.0]
    assert bert_scores(scorer, ["", "so sorry"], ["what", "so sorry"]) == [0.0, pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./none", r"^evaluation\.bertscore: \./none: no such folder"),
        ("me/none", r"^evaluation\.bertscore: me/none: .*in the local cache"),
    ],
)
def test_a_model_that_is_not_there(name, message):
    with pytest.raises(UserError, match=message):
        check_bertscore(name)


def test_a_name_that_bert_score_takes_for_a_t5(encoder):
    other = shutil.copytree(encoder, Path(encoder).with_name("not-t5"))
    with pytest.raises(UserError, match=r"every model with t5 in its name as a T5, but this is a bert; rename"):
        check_bertscore(str(other))


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({}, "tokenizer_config.json has no model_max_length"),
        pytest.param({"model_max_length": 65}, "is 65, but the model has 64 positions", marks=pytest.mark.faults),
    ],
)
def test_a_tokenizer_without_a_limit_or_with_a_wrong_one(encoder, limit, message):
    path = Path(encoder) / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("model_max_length")
    path.write_text(json.dumps(settings | limit))
    with pytest.raises(UserError, match=message):
        check_bertscore(encoder)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'^evaluation\.bertscore: needs bert_score; .*pip install "empathy-trl\[bertscore\]"'
    ):
        check_bertscore("roberta-large")

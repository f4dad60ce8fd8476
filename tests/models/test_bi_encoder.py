"""Bi-encoders: which folders are one, the vectors of each pooling, cosines in rewards, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from empathy_trl.check import describe
from empathy_trl.errors import UserError
from empathy_trl.models.classifier import load_bi_encoder, pooling_modes
from empathy_trl.models.hub_files import one_revision
from empathy_trl.models.load import load_model
from empathy_trl.models.scorer import BiEncoderScorer, predict, shared_scorer
from empathy_trl.recipe import load_recipe
from empathy_trl.rewards.learned import EmpathyModel, QualityCritic, RewardModel, SemanticSimilarity
from empathy_trl.rewards.staged import Foresight
from tests.rewards.three_parts import reply

MINILM = Path(__file__).parents[2] / "models" / "minilm-l6"
TEXTS = ["my dog died", "i am so sorry that your dog died", "ok"]
SWITCHES = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.fixture
def make_bi_encoder(make_classifier):
    """Return a function that saves a tiny BERT without a head as sentence-transformers does, and returns its folder."""

    def make(pooling=SWITCHES, modules=("Transformer", "Pooling", "Normalize"), **files) -> str:
        folder = Path(make_classifier({text: [float(row)] for row, text in enumerate(TEXTS)}, "bi_encoder"))
        AutoModel.from_pretrained(folder).save_pretrained(folder)
        files["modules"] = [
            {"path": "" if kind == "Transformer" else f"{row}_{kind}", "type": f"sentence_transformers.models.{kind}"}
            for row, kind in enumerate(modules)
        ]
        (folder / "1_Pooling").mkdir(exist_ok=True)
        for name, content in {**files, "1_Pooling/config": pooling}.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return str(folder)

    return make


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ["mean"]),
        ({"pooling": {"word_embedding_dimension": 64}}, ["mean"]),
        ({"pooling": {"pooling_mode": "lasttoken"}}, ["lasttoken"]),
        ({"pooling": SWITCHES | {"pooling_mode_cls_token": True}}, ["cls", "mean"]),
        ({"pooling": {"pooling_mode": "weightedmean"}}, r"1_Pooling/config.json pools by 'weightedmean' \(choices: cls, max, mean, la"),
        ({"modules": ["Transformer", "Pooling", "Dense"]}, "consists of Transformer, Pooling, Dense .*; expected a bi-encoder made of"),
        ({"modules": ["Transformer", "SpladePooling"]}, "consists of Transformer, SpladePooling"),
        ({"config_sentence_transformers": {"model_type": "SparseEncoder"}}, "is a SparseEncoder"),
    ],
)  # fmt: skip
def test_what_the_files_say(make_bi_encoder, change, expected):
    folder = make_bi_encoder(**change)
    if isinstance(expected, list):
        assert pooling_modes(folder, None) == expected
    else:
        with pytest.raises(UserError, match=expected):
            shared_scorer(folder)


def test_models_without_these_files_are_no_bi_encoders(make_bi_encoder, make_classifier):
    cross_encoder = Path(make_classifier({("a", "b"): [1.0]}, "cross_encoder"))
    (cross_encoder / "modules.json").write_text("[]")  # newer ones have this file, too
    assert pooling_modes(str(cross_encoder), None) is None
    folder = make_bi_encoder()
    (Path(folder) / "modules.json").unlink()
    with pytest.raises(
        UserError, match="has no trained head: .*; or, for a similarity, a bi-encoder with its modules.json"
    ):
        SemanticSimilarity(model=folder).load()


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "lasttoken", ["cls", "mean"]])
def test_cosines_of_each_pooling(make_bi_encoder, mode):
    folder = make_bi_encoder({"pooling_mode": mode})
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = []
    for text in TEXTS:  # one at a time, without padding
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        pooled = {"cls": hidden[0], "max": hidden.max(axis=0), "mean": hidden.mean(axis=0), "lasttoken": hidden[-1]}
        vector = np.concatenate([pooled[each] for each in ([mode] if isinstance(mode, str) else mode)])
        vectors.append(vector / np.linalg.norm(vector))
    pairs = [(row, other) for row in range(3) for other in range(3)]
    found = shared_scorer(folder).score([(TEXTS[row], TEXTS[other]) for row, other in pairs])
    assert (found.dtype, found.shape) == (np.float32, (9, 1))
    np.testing.assert_allclose(found[:, 0], [vectors[row] @ vectors[other] for row, other in pairs], atol=1e-5)
    np.testing.assert_allclose(found[::4], 1, atol=1e-6)


def test_each_text_is_read_once_and_long_ones_are_counted(make_bi_encoder, caplog):
    folder = make_bi_encoder(sentence_bert_config={"max_seq_length": 10})
    scorer = shared_scorer(folder)
    assert scorer.score([]).shape == (0, 1)
    scorer.score([("my dog died", other) for other in TEXTS])
    scorer.score([("ok", "my dog died"), ("ok " * 500, "ok")])
    counts = scorer.counts
    assert (counts.texts, counts.forwarded, counts.cut) == (10, 4, 1) and "longer than 10 tokens" in caplog.text
    assert not any(weight.requires_grad for weight in scorer.model.parameters())
    (Path(folder) / "1_Pooling/config.json").write_text('{"pooling_mode": "cls"}')
    assert shared_scorer(folder).modes == ["cls"]


def test_rewards(make_bi_encoder, monkeypatch):
    folder = make_bi_encoder()
    replies = ["my dog died", "<answer>ok</answer>", "", "ok"]
    prompts = [*["my dog died"] * 3, ""]
    (cosine,) = predict(folder, [("my dog died", "ok")])[0].values()
    assert SemanticSimilarity(model=folder).score(prompts, replies) == pytest.approx([1, cosine, 0, None], abs=1e-5)
    halved = SemanticSimilarity(model=folder, label_range=[-1, 1]).score(prompts, replies)
    assert halved == pytest.approx([1, (1 + cosine) / 2, 0, None], abs=1e-5)
    monkeypatch.setattr(type(shared_scorer(folder)), "score", lambda self, texts, log: np.full((len(texts), 1), -0.25))
    assert SemanticSimilarity(model=folder).score(prompts[:1], ["ok"]) == [0.0]  # below the range
    monkeypatch.undo()
    foresight = Foresight(model=folder).score(
        [""], [reply(reflect="ok")], next_user=["ok"], other_users=[["my dog died"]]
    )
    assert foresight == pytest.approx([(1 + 1 - cosine) / 2], abs=1e-5)


@pytest.mark.parametrize("kind", [RewardModel, EmpathyModel, QualityCritic])
def test_other_rewards_refuse_it(make_bi_encoder, kind):
    with pytest.raises(
        UserError, match="^rewards.*model: is a bi-encoder, which only compares texts; expected one for regression"
    ):
        kind(model=make_bi_encoder()).load()


def test_what_is_wrong_with_it_is_named(make_bi_encoder):
    folder = make_bi_encoder()
    with pytest.raises(
        UserError, match=r"is a bi-encoder, which compares two texts; expected \(text, pair\) tuples, got 'ok'"
    ):
        predict(folder, ["ok"])
    with pytest.raises(
        UserError, match=r"is an encoder \(bert\), which generates no text; expected a language model here, or"
    ):
        load_model(folder)
    with pytest.raises(UserError, match=r"is an encoder \(bert\)"):
        describe(load_recipe("ed4_tiny", ["--model.name_or_path", folder]), Path(folder))
    weights = load_file(f"{folder}/model.safetensors")
    kept = {key: value for key, value in weights.items() if "pooler" not in key}
    save_file(kept, f"{folder}/model.safetensors", metadata={"format": "pt"})
    shared_scorer(folder)  # BERT's own pooler is not used
    kept.pop("encoder.layer.0.attention.self.query.weight")
    save_file(kept, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match="weights do not fit config.json: encoder.layer.0.attention.self.query.weight .missing"
    ):
        shared_scorer(folder)
    (Path(folder) / "1_Pooling/config.json").unlink()
    with pytest.raises(UserError, match="cannot be read: expected 1_Pooling/config.json"):
        shared_scorer(folder)


def test_from_the_hub_also_offline(make_bi_encoder, hub_server, tmp_path):
    folder = make_bi_encoder({"pooling_mode": "cls"}, sentence_bert_config={"max_seq_length": 7})
    HfApi().create_repo("ann/similar")
    HfApi().upload_folder(repo_id="ann/similar", folder_path=folder)
    HfApi().create_tag("ann/similar", tag="v1")
    for name, offline in (("ann/similar@v1", False), ("ann/similar", False), ("ann/similar", True)):
        with hub_server.in_this_process(tmp_path / "hub_home", offline=offline):
            scorer = BiEncoderScorer(
                *load_bi_encoder(*one_revision(name, None), "auto"), name, pooling_modes(*one_revision(name, None))
            )
        assert (scorer.modes, scorer.max_length) == (["cls"], 7)
        np.testing.assert_allclose(scorer.score([("ok", "ok")]), [[1]], atol=1e-6)


@pytest.mark.pretrained
@pytest.mark.skipif(not MINILM.is_dir(), reason="needs models/minilm-l6: make small-models")
def test_minilm_says_what_sentence_transformers_says():
    cat = "My cat died yesterday."
    pairs = [(cat, "I am so sorry that your cat passed away."), (cat, "The train leaves at nine."), (cat, cat)]
    # SentenceTransformer("all-MiniLM-L6-v2").encode(texts, normalize_embeddings=True) of sentence-transformers 6.2.0
    np.testing.assert_allclose(shared_scorer(str(MINILM)).score(pairs)[:, 0], [0.769388, 0.126701, 1], atol=2e-6)

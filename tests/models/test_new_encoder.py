"""New encoders with a head: the same seed gives the same weights, and a pretrained body keeps its own."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, Qwen2Config

from empathy_trl.errors import UserError
from empathy_trl.models.classifier import build_encoder_tokenizer, new_classifier
from empathy_trl.models.label_schema import Targets

TEXTS = ["I am so sorry to hear that 😀", "What happened then?", "well done <url> @USER"] * 3
RATINGS = Targets("regress", {"Emotion": (0, 5), "Empathy": (0, 5)})


def section(name=None, **changes):
    scratch = SimpleNamespace(
        architecture="roberta", hidden_size=16, layers=1, heads=2, vocab_size=320, max_length=32, **changes
    )
    source = {"from_scratch": None if name else scratch, "name_or_path": name and str(name)}
    return SimpleNamespace(**source, revision=None, dtype="auto", attn_implementation=None)


@pytest.fixture
def saved(tmp_path):
    model, tokenizer = new_classifier(section(), RATINGS, seed=1, texts=TEXTS)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_same_seed_same_weights():
    a, b, c = (new_classifier(section(), RATINGS, seed=seed, texts=TEXTS)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_global_random_state_is_left_alone(saved):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    new_classifier(section(), RATINGS, seed=1, texts=TEXTS)
    new_classifier(section(saved), RATINGS, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_longest_text_fits(saved):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    batch = tokenizer(["word " * 100, "short"], truncation=True, padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 32) and batch["input_ids"][1, -1] == tokenizer.pad_token_id
    assert model(**batch).logits.shape == (2, 2)
    assert model.config.id2label == {0: "Emotion", 1: "Empathy"}


def test_the_tokenizer_stays_the_same_on_disk(saved):
    made, read = build_encoder_tokenizer(TEXTS, 320, 32), AutoTokenizer.from_pretrained(saved)
    for text in [*TEXTS, "new  words, don't! שלום"]:
        assert made(text)["input_ids"] == read(text)["input_ids"]
    single, pair = read("a"), read("a", "b")
    assert single["input_ids"][0] == pair["input_ids"][0] == read.cls_token_id
    assert pair["input_ids"].count(read.sep_token_id) == 2


def test_a_pretrained_body_gets_a_fresh_head(saved):
    intents = Targets("classify", {"intent": ("a", "b", "c")})
    model, _ = new_classifier(section(saved), intents, seed=3)
    body = AutoModel.from_pretrained(saved, add_pooling_layer=False).state_dict()
    assert all(torch.equal(body[key], value) for key, value in model.roberta.state_dict().items())
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"} and model.classifier.out_proj.out_features == 3


def test_a_model_that_takes_no_head_is_refused(tmp_path):
    from transformers import CLIPTextConfig

    CLIPTextConfig().save_pretrained(tmp_path)
    build_encoder_tokenizer(TEXTS, 320, 32).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="clip_text_model model takes no classification head; expected an encoder"):
        new_classifier(section(tmp_path), RATINGS, seed=0)


def test_a_body_with_missing_weights_is_refused(saved):
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / "model.safetensors")
    del weights["roberta.encoder.layer.0.output.dense.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"do not fit config.json: roberta.encoder.layer.0.output.dense.weight missing"):
        new_classifier(section(saved), RATINGS, seed=0)


def test_a_decoder_may_carry_a_head_too(tmp_path):
    from transformers import Qwen2Model

    tokenizer = build_encoder_tokenizer(TEXTS, 320, 32)
    config = Qwen2Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    Qwen2Model(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = new_classifier(section(tmp_path), RATINGS, seed=0)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model(**tokenizer(["a", "b c d"], padding=True, return_tensors="pt")).logits.shape == (2, 2)

"""Classifiers: loading trained ones, refusing random heads, and making new ones."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    CLIPTextConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    Qwen2Config,
    Qwen2Model,
)

from empathy_trl.errors import UserError
from empathy_trl.models.classifier import build_encoder_tokenizer, load_classifier, new_classifier
from empathy_trl.models.label_schema import Targets, activation, label_names
from empathy_trl.models.tiny import build_tokenizer

SCORES = {"i am so sorry": [4.0, 1.0], "ok": [0.5, 3.0]}


@pytest.fixture
def full(make_classifier):
    return make_classifier(SCORES, id2label={0: "Empathy", 1: "Polarity"}, problem_type="regression")


@pytest.fixture
def make_adapter(make_classifier, tmp_path):
    """Return a function that saves a LoRA adapter with a head of three outputs, on a base whose own head has two."""

    def make(task_type=TaskType.SEQ_CLS, **settings):
        base = make_classifier(SCORES, "base")
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, ignore_mismatched_sizes=True)
        settings = {"r": 2, "target_modules": ["query", "value"], **settings}
        adapter = get_peft_model(model, LoraConfig(task_type=task_type, **settings))
        torch.manual_seed(0)
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        adapter.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", adapter.eval()

    return make


def logits(model, tokenizer, text="i am so sorry"):
    with torch.no_grad():
        return model.eval()(**tokenizer(text, return_tensors="pt")).logits


def test_a_full_model_in_a_folder(full):
    model, tokenizer = load_classifier(full)
    torch.testing.assert_close(logits(model, tokenizer), torch.tensor([[4.0, 1.0]]), atol=1e-4, rtol=0)
    assert label_names(model.config) == ["Empathy", "Polarity"]
    assert tokenizer.padding_side == "right" and tokenizer.chat_template is None
    assert load_classifier(full, dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.faults
def test_a_decoder_gets_a_pad_token_and_reads_a_text_alike_beside_longer_ones(tmp_path):
    tokenizer = build_tokenizer(["some text"], 300)
    config = GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1, n_positions=16, eos_token_id=1, bos_token_id=1)
    config.pad_token_id, config.initializer_range = None, 0.5
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_classifier(str(tmp_path))
    assert tokenizer.pad_token == "<eos>" and model.config.pad_token_id == tokenizer.eos_token_id
    with torch.no_grad():
        together = model.eval()(**tokenizer(["s", "some text, some text"], padding=True, return_tensors="pt")).logits[
            :1
        ]
    torch.testing.assert_close(together, logits(model, tokenizer, "s"))


# Adapters


def test_an_adapter_on_its_base_with_another_head(make_adapter):
    folder, trained = make_adapter()
    model, tokenizer = load_classifier(str(folder))
    assert isinstance(model, PeftModel)
    assert label_names(model.config) == ["LABEL_0", "LABEL_1", "LABEL_2"]  # the adapter's head says how many
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(logits(model, tokenizer), logits(trained, tokenizer))


def test_an_adapter_with_its_own_config_and_tokenizer(make_adapter, tmp_path):
    folder, trained = make_adapter()
    trained.config.id2label = {0: "Emotion", 1: "EmotionalPolarity", 2: "Empathy"}
    trained.config.label_ranges = {"Empathy": [0, 5]}
    trained.config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tmp_path / "base", eos_token="ok").save_pretrained(folder)
    model, tokenizer = load_classifier(str(folder), is_trainable=True)
    assert label_names(model.config) == ["Emotion", "EmotionalPolarity", "Empathy"]
    assert model.config.label_ranges == {"Empathy": [0, 5]}
    assert tokenizer.eos_token == "ok"
    trained_names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("lora_A" in name for name in trained_names) and any("classifier" in name for name in trained_names)


def test_an_adapter_without_its_head_is_refused(make_adapter):
    folder, trained = make_adapter(TaskType.FEATURE_EXTRACTION)
    trained.config.save_pretrained(folder)  # three outputs, and nobody has weights for them
    with pytest.raises(UserError, match="has no trained head: classifier.bias, classifier.weight are in none"):
        load_classifier(str(folder))


def test_an_adapter_on_a_bare_encoder_must_bring_all_that_is_missing(make_adapter, tmp_path):
    folder, _ = make_adapter()
    config = BertConfig.from_pretrained(tmp_path / "base")
    BertForMaskedLM(config).save_pretrained(tmp_path / "base")  # has neither head nor pooler
    with pytest.raises(UserError, match="has no trained head: bert.pooler.dense.bias, bert.pooler.dense.weight are in"):
        load_classifier(str(folder))


def test_an_adapter_whose_weights_are_not_all_there(make_adapter):
    folder, _ = make_adapter()
    weights = load_file(folder / "adapter_model.safetensors")
    some = {name: weight for name, weight in weights.items() if "value.lora_A" not in name}
    save_file(some, folder / "adapter_model.safetensors")
    message = "adapter: the adapter's weights do not fit adapter_config.json or its base: .*value.lora_A"
    with pytest.raises(UserError, match=message):
        load_classifier(str(folder))


# Refusals


def change(folder, **settings):
    file = Path(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def without_head(folder):
    weights = load_file(Path(folder) / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("classifier")}
    save_file(kept, Path(folder) / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_head, "has no trained head: classifier.bias, classifier.weight are in none .* `task: regress` or `task: classify`, or"),
        (lambda folder: change(folder, id2label={0: "a", 1: "b", 2: "c"}),
         r"the weights do not fit config.json: classifier.bias \(\[2\] in the file, \[3\] by config.json\)"),
        (lambda folder: change(folder, architectures=["Qwen2ForCausalLM"]),
         r"is a generative model \(Qwen2ForCausalLM\) without a classification head; expected .*`task: regress`"),
        (lambda folder: change(folder, model_type="whisper"), "cannot be loaded as a classifier or regressor: .*Whisper"),
        (lambda folder: change(folder, model_type="gpt99"), "cannot be read: ValueError: .*gpt99"),
        (lambda folder: (Path(folder) / "tokenizer.json").unlink(), "cannot be read: expected tokenizer.json or"),
        (shutil.rmtree, r"no such folder; expected the folder of a model, a file \*.gguf, or a Hub id"),
    ],
)  # fmt: skip
def test_what_cannot_be_trusted_is_refused(full, damage, message):
    damage(full)
    with pytest.raises(UserError, match=f"classifier: {message}"):
        load_classifier(full)


# Cross-encoders of sentence-transformers say in three places how their output is to be read


@pytest.mark.parametrize(
    ("in_config", "in_own_file", "expected"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, None, "Sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, None, "Identity"),
        ({}, {"activation_fn": "torch.nn.modules.activation.Sigmoid", "model_type": "CrossEncoder"}, "Sigmoid"),
        ({}, {"model_type": "SentenceTransformer"}, None),
        ({}, None, None),
    ],
)
def test_the_activation_of_a_cross_encoder(make_classifier, in_config, in_own_file, expected):
    folder = make_classifier(SCORES, **in_config)
    if in_own_file is not None:
        (Path(folder) / "config_sentence_transformers.json").write_text(json.dumps(in_own_file))
    model, _ = load_classifier(folder)
    assert activation(model.config) == expected


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
    for part in new_classifier(section(), RATINGS, seed=1, texts=TEXTS):
        part.save_pretrained(tmp_path)
    return tmp_path


def test_same_seed_same_weights_and_the_global_random_state_is_left_alone(saved):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = (new_classifier(section(), RATINGS, seed=seed, texts=TEXTS)[0].state_dict() for seed in (1, 1, 2))
    new_classifier(section(saved), RATINGS, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


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
    CLIPTextConfig().save_pretrained(tmp_path)
    build_encoder_tokenizer(TEXTS, 320, 32).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="clip_text_model model takes no classification head; expected an encoder"):
        new_classifier(section(tmp_path), RATINGS, seed=0)


def test_a_body_with_missing_weights_is_refused(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["roberta.encoder.layer.0.output.dense.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"do not fit config.json: roberta.encoder.layer.0.output.dense.weight missing"):
        new_classifier(section(saved), RATINGS, seed=0)


def test_a_decoder_may_carry_a_head_too(tmp_path):
    tokenizer = build_encoder_tokenizer(TEXTS, 320, 32)
    config = Qwen2Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    Qwen2Model(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = new_classifier(section(tmp_path), RATINGS, seed=0)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model(**tokenizer(["a", "b c d"], padding=True, return_tensors="pt")).logits.shape == (2, 2)

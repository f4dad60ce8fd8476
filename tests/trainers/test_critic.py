"""The critic: what it starts from, what is refused, and dropout that is off in every place that a model keeps it in; advantages
against their definition, one sum per token, and the figures around them by hand."""

import math
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartModel,
    Qwen2Config,
    Qwen2Model,
)

from empathy_trl.errors import UserError
from empathy_trl.trainers import critic as module
from empathy_trl.trainers.critic import Critic, Seq2SeqOutputWithValues, build_critic, switch_off_dropout
from tests.trainers.settings import assert_identical, make_ppo_trainer


def test_values_are_in_float32_whatever_the_weights_are_in():
    critic = Critic(4).to(torch.bfloat16)
    assert critic(torch.ones(1, 3, 4)).dtype == torch.float32
    assert critic.double()(torch.ones(1, 3, 4)).dtype == torch.float64


@pytest.mark.faults
def test_values_of_an_encoder_decoder_survive_ddp_which_builds_outputs_again():
    output = Seq2SeqOutputWithValues(logits=torch.zeros(1, 2, 3), token_values=torch.ones(1, 2))
    leaves, structure = tree_flatten(output)
    assert torch.equal(tree_unflatten(leaves, structure)["token_values"], torch.ones(1, 2))
    assert len(list(output.values())) == 2  # still a method


def test_a_critic_of_another_kind_is_refused(tiny_folder, tmp_path):
    make_ppo_trainer(tiny_folder, tmp_path).save_model(str(tmp_path / "saved"))
    saved = str(tmp_path / "saved" / "critic")
    with pytest.raises(UserError, match="holds a critic with .*'head'.* needs one with .*'model'"):
        make_ppo_trainer(tiny_folder, tmp_path, critic_kind="model", critic_name_or_path=saved)


def save_other(tiny_folder, folder, **sizes):
    """Save a model like the tiny one, of other sizes, with its tokenizer; return the folder."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    config = AutoConfig.from_pretrained(tiny_folder, **sizes)
    for part in (AutoModelForCausalLM.from_config(config), tokenizer):
        part.save_pretrained(folder)
    return folder


def test_a_saved_backbone_with_another_vocabulary_is_refused(tiny_folder, tmp_path):
    wider = save_other(tiny_folder, tmp_path / "wider", vocab_size=400)
    make_ppo_trainer(wider, tmp_path, critic_kind="model").save_model(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="holds a critic that reads 400 tokens; the policy writes"):
        make_ppo_trainer(tiny_folder, tmp_path, critic_kind="model", critic_name_or_path=str(tmp_path / "saved"))


def test_a_saved_backbone_serves_an_adapter_and_a_policy_of_another_size(tiny_folder, tmp_path):
    larger = save_other(tiny_folder, tmp_path / "larger", hidden_size=32)
    first = make_ppo_trainer(larger, tmp_path, critic_kind="model")
    torch.nn.init.normal_(first.critic.value_head.weight)
    first.save_model(str(tmp_path / "saved"))
    adapter = LoraConfig(r=2, target_modules="all-linear")
    for name in ("saved", "saved/critic"):
        settings = {"critic_kind": "model", "critic_name_or_path": str(tmp_path / name)}
        trainer = make_ppo_trainer(tiny_folder, tmp_path / "out", peft_config=adapter, **settings)
        assert_identical(dict(first.critic.state_dict()), dict(trainer.critic.state_dict()))


def test_a_policy_in_pieces_is_not_copied(tiny_folder, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    monkeypatch.setattr(module, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(UserError, match="with ZeRO-3 no process has the policy's weights to copy"):
        build_critic("model", None, model, None)


def test_a_saved_critic_of_version_0_1_is_read_and_written_as_it_was(tmp_path):
    """Its centre was a buffer; the files are the same, also where DeepSpeed has it among the model's weights."""
    old = {"weight": torch.ones(1, 4), "bias": torch.zeros(1), "centre": torch.tensor([1.5])}
    critic, other = Critic(4), Critic(4)
    critic.load_state_dict({f"value_head.{name}": weight for name, weight in old.items()})
    critic.save(tmp_path, critic.state_dict())
    assert_identical(load_file(tmp_path / "value_head.safetensors"), old)
    other.load(tmp_path)
    assert torch.equal(other(torch.ones(1, 1, 4)), torch.tensor([[5.5]]))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("critic_config.json", "{", "critic_config.json, line 1: not valid JSON"),
        ("value_head.safetensors", "x", "value_head.safetensors: holds no value head that can be read"),
        ("value_head.safetensors", None, "value_head.safetensors: holds no value head that can be read: No such file"),
    ],
)
def test_a_critic_with_a_broken_file_is_refused(tmp_path, name, content, message):
    critic = Critic(4)
    critic.save(tmp_path, critic.state_dict())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        critic.load(tmp_path)


def test_a_head_that_is_not_there_is_refused(tiny_folder, tmp_path):
    with pytest.raises(UserError, match="critic_name_or_path: .* holds no critic"):
        make_ppo_trainer(tiny_folder, tmp_path, critic_name_or_path=str(tiny_folder))


def test_a_model_that_reads_other_tokens_is_refused(tiny_folder, tmp_path, make_classifier):
    other = make_classifier({"good": [1.0]})
    with pytest.raises(UserError, match="has another tokenizer than the policy.*critic_kind: head"):
        make_ppo_trainer(tiny_folder, tmp_path, critic_kind="model", critic_name_or_path=other)


def test_a_reward_model_of_the_family_brings_its_head_along(tiny_folder, tmp_path):
    rater = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=1)
    rater.save_pretrained(tmp_path / "rater")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "rater")
    trainer = make_ppo_trainer(
        tiny_folder, tmp_path, critic_kind="model", critic_name_or_path=str(tmp_path / "rater"), max_steps=1
    )
    assert torch.equal(trainer.model.critic.value_head.weight, rater.score.weight.float())
    trainer.train()


def test_a_head_on_quantised_weights_is_refused(tiny_folder, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model.is_quantized = True
    messages = {"head": "weights are quantised.*set critic_kind: model", "model": "cannot be copied as critic"}
    for kind, message in messages.items():
        with pytest.raises(UserError, match=message):
            build_critic(kind, None, model, None)


SIZES = {"vocab_size": 30, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
HALVES = {
    f"{half}_{size}": value
    for half in ("encoder", "decoder")
    for size, value in {"layers": 2, "attention_heads": 2, "ffn_dim": 8, "layerdrop": 0.5}.items()
}
BART = {"vocab_size": 30, "d_model": 8, "dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3}
ADAPTED = get_peft_model(
    Qwen2Model(Qwen2Config(**SIZES, num_key_value_heads=2)),
    LoraConfig(target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False),
)
MODELS = {
    "attention": Qwen2Model(Qwen2Config(**SIZES, num_key_value_heads=2, attention_dropout=0.5)),
    "an adapter": ADAPTED,
    "functions, layers and attention": BartModel(BartConfig(**BART, **HALVES)),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_model_in_training_mode_gives_the_same_twice(model):
    ids = torch.arange(5, 15)[None]
    model.train()

    def states():
        return [model(input_ids=ids).last_hidden_state for _ in range(4)]

    first, *others = states()
    assert any(not torch.equal(first, other) for other in others)
    switch_off_dropout(model)
    assert model.training
    first, *others = states()
    assert all(torch.equal(first, other) for other in others)


def scalar_advantages(rewards, values, mask, gamma, lam):
    """The definition, one sum per token: A_t = sum over l of (gamma lambda)^l delta_{t+l}, over the tokens that count."""
    kept = [t for t, counts in enumerate(mask) if counts]
    deltas = [
        rewards[t] + (gamma * values[kept[i + 1]] if i + 1 < len(kept) else 0.0) - values[t] for i, t in enumerate(kept)
    ]
    result = [0.0] * len(mask)
    for i, t in enumerate(kept):
        result[t] = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(kept)))
    return result


@pytest.mark.parametrize("seed", range(20))
def test_advantages_equal_their_definition_on_random_masks(seed):
    draw = random.Random(seed)
    rows, length = draw.randint(1, 5), draw.randint(1, 12)
    rewards, values = ([[draw.gauss(0, 1) for _ in range(length)] for _ in range(rows)] for _ in range(2))
    mask = [[int(draw.random() < 0.7) for _ in range(length)] for _ in range(rows)]
    gamma, lam = draw.random(), draw.random()
    tensors = [torch.tensor(each, dtype=torch.float64) for each in (rewards, values, mask)]
    found, returns = module.advantages_and_returns(*tensors, gamma, lam)
    for row in range(rows):
        expected = scalar_advantages(rewards[row], values[row], mask[row], gamma, lam)
        assert found[row].tolist() == pytest.approx(expected)
        wanted = [(a + v) * m for a, v, m in zip(expected, values[row], mask[row], strict=True)]
        assert returns[row].tolist() == pytest.approx(wanted)


SCORES = {
    "at the last token": ([1, 1, 1], [-0.5, -0.25, 1.875]),
    "before the padding": ([1, 1, 0], [-0.5, 1.75, 0]),
    "before what a tool wrote": ([1, 0, 0], [1.5, 0, 0]),
    "after a hole": ([0, 1, 1], [0, -0.25, 1.875]),
    "nowhere in an empty row": ([0, 0, 0], [0, 0, 0]),
}


@pytest.mark.parametrize("mask, expected", SCORES.values(), ids=SCORES)
def test_the_score_is_paid_once_and_the_kl_everywhere(mask, expected):
    penalties = torch.tensor([[0.5, 0.25, 0.125]])
    assert module.token_rewards(torch.tensor([2.0]), penalties, torch.tensor([mask])).tolist() == [expected]


def test_kl_estimators():
    policy, reference = torch.log(torch.tensor([0.5, 0.2])), torch.log(torch.tensor([0.25, 0.4]))
    assert module.per_token_kl(policy, reference, "k1").tolist() == pytest.approx([math.log(2), -math.log(2)])
    # q/p - 1 - log(q/p) for q/p = 1/2 and 2
    assert module.per_token_kl(policy, reference, "k3").tolist() == pytest.approx([math.log(2) - 0.5, 1 - math.log(2)])


def test_whitening_counts_only_what_the_mask_keeps():
    values, mask = torch.tensor([[1.0, 3.0, 100.0], [5.0, -7.0, 7.0]]), torch.tensor([[1, 1, 0], [1, 0, 1]])
    white = module.whitened(values, mask)
    kept = white[mask.bool()]
    assert kept.mean().item() == pytest.approx(0, abs=1e-6) and kept.var(unbiased=False).item() == pytest.approx(1)
    assert white[~mask.bool()].tolist() == [0, 0]


def test_whitening_uses_the_sums_of_all_processes():
    """What one of two processes with equal data computes is what it would compute alone."""
    values, mask = torch.tensor([[1.0, 3.0, 5.0]]), torch.ones(1, 3)
    assert torch.allclose(module.whitened(values, mask, lambda sums: 2 * sums), module.whitened(values, mask))


@pytest.mark.parametrize(
    "values, expected", [([1, 2, 3], 1.0), ([2, 2, 2], 0.0), ([3, 2, 1], -3.0)], ids=["perfect", "constant", "worse"]
)
def test_explained_variance(values, expected):
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[1, 1, 1, 0]])
    found = module.explained_variance(torch.tensor([[*map(float, values), 0.0]]), returns, mask)
    assert found == pytest.approx(expected)


def test_explained_variance_of_equal_returns_is_undefined():
    assert module.explained_variance(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3)) is None


# the value, the one of the rollout, the return -> loss, clipped
VALUE_LOSSES = [
    (1.1, 1.0, 2.0, 0.405, False),  # within the range: (0.9)^2 / 2
    (1.5, 1.0, 2.0, 0.32, True),  # clipped to 1.2: (0.8)^2 / 2 is larger than (0.5)^2 / 2
    (0.5, 1.0, 2.0, 1.125, False),  # moved away from the return: the free error is larger
]


@pytest.mark.parametrize("value, old, target, loss, is_clipped", VALUE_LOSSES)
def test_value_loss_is_pessimistic(value, old, target, loss, is_clipped):
    found, clipped = module.clipped_value_loss(*(torch.tensor([[x]]) for x in (value, old, target)), cliprange=0.2)
    assert found.item() == pytest.approx(loss, rel=1e-5)
    assert clipped.item() is is_clipped

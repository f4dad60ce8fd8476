"""Training with shared prompts: the same losses, gradients, completions and weights as without, and less to compute."""

import re

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    StableLmConfig,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from trl import GRPOTrainer
from trl.trainer.utils import shuffle_sequence_dict

from empathy_trl.errors import UserError
from empathy_trl.models.load import load_model
from empathy_trl.trainers.grpo import EmpathyGRPOTrainer
from empathy_trl.trainers.shared_prefix import mixin
from empathy_trl.trainers.shared_prefix.decoding import DecodeAttention, SharedDecoder
from empathy_trl.trainers.shared_prefix.mixin import shuffle_between_steps
from empathy_trl.trainers.shared_prefix.packing import PackedAttention, pack
from tests.trainers.settings import length_reward, quiet_config
from tests.trainers.shared_prefix.samples import SIZE, random_batch

TEXTS = ["I was scared when the lights went out.", "sad", "number 3", "What a party! I laughed so hard.", "lost", "so?"]
ROWS = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in TEXTS]})
EOS = 1
LORA = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")


def make_trainer(tiny_folder, output_dir, shared_prefix, model=None, rows=ROWS, reward=length_reward, **settings):
    """Return a trainer whose completions end early now and then, and whose gradients rounding cannot blow up."""
    arguments = {"peft_config": settings.pop("peft_config", None), "eval_dataset": settings.pop("eval_dataset", None)}
    return EmpathyGRPOTrainer(
        model=model or AutoModelForCausalLM.from_pretrained(tiny_folder),
        processing_class=AutoTokenizer.from_pretrained(tiny_folder, padding_side="left"),
        reward_funcs=[reward],
        args=quiet_config(
            output_dir,
            **{
                "shared_prefix": shared_prefix,
                "num_generations": 4,
                "max_completion_length": 8,
                "generation_kwargs": {"sequence_bias": [[[EOS], 4.5]]},
                "max_steps": 4,
                "optim": "sgd",
                "learning_rate": 0.5,
                **settings,
            },
        ),
        train_dataset=rows,
        **arguments,
    )


def messages(caplog):
    """Return the warnings about shared prompts."""
    return [record.getMessage() for record in caplog.records if "shared_prefix" in record.getMessage()]


def weights_of(model):
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def trained(*args, **settings):
    """Return a trainer after its run; two runs need two calls, because making a trainer sets the seed."""
    trainer = make_trainer(*args, **settings)
    trainer.train()
    return trainer


def rollout(trainer):
    """Return the batch of a trainer's first step, with completions and the scores of old and reference policies."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    rows = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(0)
    with torch.no_grad():
        return trainer._generate_and_score_completions(rows)


def loss_and_gradient(trainer, inputs):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    trainer.accelerator.backward(loss)
    gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.requires_grad]
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def move(model, seed):
    """Take the trainable weights of a model somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def retrained_adapter(tiny_folder):
    """Return a model with an adapter that has learned something, whose copy TRL takes as the reference."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), LORA)
    move(model, seed=5)
    return model


EQUALITIES = {
    "plain": {},
    "reference model": {"beta": 0.1},
    "several iterations": {"num_iterations": 2},
    "several iterations and a reference model": {"num_iterations": 2, "beta": 0.1},
    "truncated completions are masked": {
        "mask_truncated_completions": True,
        "max_completion_length": 4,
        "beta": 0.1,
        "num_iterations": 2,
        "per_device_train_batch_size": 12,
    },
    "entropy in the loss": {"entropy_coef": 0.1, "top_entropy_quantile": 0.5},
    "sequence-level ratios": {"num_iterations": 2, "importance_sampling_level": "sequence"},
    "temperature": {"temperature": 1.3, "beta": 0.1},
    "prompts of two groups": {"per_device_train_batch_size": 8, "beta": 0.1},
    "chunks of a rollout": {"per_device_train_batch_size": 4, "steps_per_generation": 2, "num_iterations": 2},
    "groups cut by micro-batches": {"per_device_train_batch_size": 2, "steps_per_generation": 4, "num_iterations": 2},
    "adapter": {"peft_config": LORA, "beta": 0.1},
    "adapter, several iterations": {"peft_config": LORA, "beta": 0.1, "num_iterations": 2},
    "adapter that is trained again": {"model": retrained_adapter, "beta": 0.1},
    "checkpointing": {"gradient_checkpointing": True, "beta": 0.1},
    "re-entrant checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "checkpointing with an adapter": {"gradient_checkpointing": True, "peft_config": LORA, "beta": 0.1},
}


@pytest.mark.parametrize("settings", EQUALITIES.values(), ids=EQUALITIES)
def test_a_step_is_the_same(tiny_folder, tmp_path, caplog, settings):
    settings = dict(settings)
    build = settings.pop("model", lambda folder: None)
    results = {}
    for shared in (True, False):
        trainer = make_trainer(tiny_folder, tmp_path, shared, model=build(tiny_folder), **settings)
        move(trainer.model, seed=1)  # away from the reference
        inputs = rollout(trainer)
        move(trainer.model, seed=2)  # away from the policy that generated
        results[shared] = inputs, *loss_and_gradient(trainer, inputs)
    assert not messages(caplog)  # it was not switched off
    (inputs, loss, gradient), (their_inputs, their_loss, their_gradient) = results[True], results[False]

    assert inputs.keys() == their_inputs.keys()
    assert ("ref_per_token_logps" in inputs) == ("beta" in settings)
    assert ("old_per_token_logps" in inputs) == ("num_iterations" in settings)
    counted = inputs["completion_mask"].bool()
    assert counted.any() and not counted.all()
    assert (~counted).all(1).any() == ("mask_truncated_completions" in settings)
    for name, value in inputs.items():
        if name.endswith("logps"):
            torch.testing.assert_close(value * counted, their_inputs[name] * counted, rtol=0, atol=1e-5)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, their_inputs[name]), name
    assert their_gradient.norm() > 1e-4
    torch.testing.assert_close(loss, their_loss, rtol=1e-4, atol=1e-6)
    assert (gradient - their_gradient).norm() <= 1e-5 * their_gradient.norm()


LAYOUTS = {
    "one batch": {"per_device_train_batch_size": 8},
    "groups cut by micro-batches": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "groups in micro-batches": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
}


LOSSES = [(layout, "dapo") for layout in LAYOUTS] + [
    ("groups cut by micro-batches", loss) for loss in ("grpo", "dr_grpo")
]


@pytest.mark.parametrize("layout, loss_type", LOSSES)
def test_training_ends_with_the_same_weights(tiny_folder, tmp_path, caplog, layout, loss_type):
    trainers = [
        trained(tiny_folder, tmp_path, shared, loss_type=loss_type, **LAYOUTS[layout]) for shared in (True, False)
    ]
    ours, theirs = (weights_of(trainer.model) for trainer in trainers)
    assert not messages(caplog)
    before = weights_of(AutoModelForCausalLM.from_pretrained(tiny_folder))
    assert (theirs - before).norm() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    rewards = [[row["reward"] for row in trainer.state.log_history if "reward" in row] for trainer in trainers]
    assert rewards[0] == rewards[1] and len(set(rewards[0])) > 1


def test_mixed_precision_is_no_reason_to_stop_sharing(tiny_folder, tmp_path, caplog):
    trainer = trained(tiny_folder, tmp_path, True, bf16=True, use_cpu=True, beta=0.1)
    assert not messages(caplog)
    assert all(row["grad_norm"] > 0 for row in trainer.state.log_history if "grad_norm" in row)


def test_dropout_is_no_reason_to_stop_sharing(tiny_folder, tmp_path, caplog):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, attention_dropout=0.5)
    inputs = rollout(trainer := make_trainer(tiny_folder, tmp_path, True, model=model))
    first, second = (loss_and_gradient(trainer, inputs)[1] for _ in range(2))
    assert not messages(caplog)
    assert trainer.model.training and not torch.equal(first, second)


def test_evaluation_is_the_same(tiny_folder, tmp_path, caplog):
    metrics = []
    for shared in (True, False):
        trainer = make_trainer(tiny_folder, tmp_path, shared, eval_dataset=ROWS, per_device_eval_batch_size=8, beta=0.1)
        move(trainer.model, seed=1)
        torch.manual_seed(0)
        metrics.append({k: v for k, v in trainer.evaluate().items() if "per_second" not in k and "time" not in k})
    assert not messages(caplog)
    assert {"eval_loss", "eval_reward", "eval_kl", "eval_entropy"} <= metrics[0].keys()
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4, abs=1e-5)


# rows of an optimizer step, sequences; a row's number stands in each of them
SHUFFLES = {"single rows": (1, 6), "pairs": (2, 8), "groups of 4": (4, 16), "one step": (6, 6)}


@pytest.mark.parametrize("rows, length", SHUFFLES.values(), ids=SHUFFLES)
def test_steps_get_the_rows_that_trl_deals_them_in_order(rows, length):
    numbers = torch.arange(length)
    sequences = {
        "absent": None,
        "ids": numbers[:, None] * 10 + torch.arange(3),
        "advantages": numbers.float(),
        "texts": [f"row {number}" for number in range(length)],
        "count": torch.tensor(7),
    }
    torch.manual_seed(1)
    usual = shuffle_sequence_dict(sequences)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    ours = shuffle_between_steps(sequences, rows)

    assert torch.equal(torch.get_rng_state(), state)
    order = ours["advantages"].long()
    theirs = usual["advantages"].long().view(-1, rows)
    assert torch.equal(order.view(-1, rows), theirs.sort(dim=1).values)
    assert torch.equal(order, numbers) == (rows == length)
    assert torch.equal(ours["ids"], sequences["ids"][order])
    assert ours["texts"] == [f"row {number}" for number in order]
    assert ours["absent"] is None and ours["count"] == 7
    if rows == 1:
        assert order.tolist() == usual["advantages"].tolist() and ours["texts"] == usual["texts"]


# rows of a micro-batch, completions per prompt, micro-batches of a rollout; rows that must stay together
MICRO_BATCHES = {
    "a group each": (4, 4, 3, 4),
    "two groups each": (4, 2, 3, 2),
    "half a group each": (2, 4, 6, 2),
    "a group and a half each": (6, 4, 2, 2),
}


@pytest.mark.parametrize("batch, completions, count, block", MICRO_BATCHES.values(), ids=MICRO_BATCHES)
def test_rows_of_a_prompt_stay_in_one_micro_batch(tiny_folder, tmp_path, batch, completions, count, block):
    settings = {"per_device_train_batch_size": batch, "num_generations": completions}
    settings |= {"gradient_accumulation_steps": count}
    trainer = make_trainer(tiny_folder, tmp_path, True, **settings)
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    seen = []
    for step in range(count):
        trainer._step = step
        inputs = trainer._prepare_inputs(rows)
        ids, mask = inputs["prompt_ids"], inputs["prompt_mask"].bool()
        blocks = ids.view(batch // block, block, -1)
        assert torch.equal(blocks, blocks[:, :1].expand_as(blocks))
        seen += [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
    prompts, *_ = trainer._tokenize_prompts([row["prompt"] for row in rows])
    assert sorted(seen) == sorted(prompts)


def embedded(trainer):
    """Return a list that grows by the shape of the ids whenever a model reads tokens."""
    shapes = []
    trainer.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: shapes.append(args[0].shape)
    )
    return shapes


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "adapter"])
def test_prompts_are_read_once_per_group(tiny_folder, tmp_path, adapter):
    trainer = make_trainer(
        tiny_folder, tmp_path, True, per_device_train_batch_size=8, num_generations=4, peft_config=adapter
    )
    loss_and_gradient(trainer, rollout(trainer))  # the first time compares with the usual path
    shapes = embedded(trainer)
    inputs = rollout(trainer)
    prompts = inputs["prompt_ids"].shape[1]
    assert shapes[0] == (2, prompts)
    assert set(shapes[1:]) == {(2, 4)}
    shapes.clear()

    loss_and_gradient(trainer, inputs)
    ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    tokens = pack(ids, mask, inputs["completion_ids"].shape[1]).tokens
    assert shapes == [(1, tokens)]
    assert tokens < 0.7 * mask.sum()


@pytest.mark.parametrize("chunk", [None, 2])
def test_rows_with_nothing_to_share_lose_only_their_padding(tiny_folder, tmp_path, chunk):
    rows = random_batch((7, 7, 7, 7), [(number, 6) for number in range(4)])
    ids, mask, completion_length = rows.widened(left=2, right=3)
    trainers = [make_trainer(tiny_folder, tmp_path, shared) for shared in (True, False)]
    scores = [
        trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, completion_length, batch_size=chunk, compute_entropy=True
        )
        for trainer in trainers
    ]
    for ours, theirs in zip(scores[0][:2], scores[1][:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    shapes = embedded(trainers[0])
    trainers[0]._get_per_token_logps_and_entropies(trainers[0].model, ids, mask, completion_length, batch_size=chunk)
    assert shapes == ([(2, 7 + 6)] * 2 if chunk else [(4, 7 + 6)])


@pytest.mark.parametrize("kind", ["messages", "text"])
def test_a_repeated_prompt_is_tokenized_once(tiny_folder, tmp_path, monkeypatch, kind):
    trainer = make_trainer(tiny_folder, tmp_path, "auto")
    prompts = TEXTS if kind == "text" else ROWS["prompt"]
    repeated = [prompts[number] for number in (0, 0, 0, 1, 2, 2, 0)]
    usual = GRPOTrainer._tokenize_prompts(trainer, repeated)
    tokenizer, rows = type(trainer.processing_class), []

    def counting(self, text=None, *args, _call=tokenizer.__call__, **kwargs):
        rows.extend(text)
        return _call(self, text, *args, **kwargs)

    monkeypatch.setattr(tokenizer, "__call__", counting)
    assert trainer._tokenize_prompts(repeated) == usual
    assert len(rows) == 4  # the last one does not stand beside its equals


def stablelm():
    """Return a model whose attention cannot be extended."""
    config = StableLmConfig(**SIZE | {"vocab_size": 320, "eos_token_id": EOS})
    return AutoModelForCausalLM.from_config(config)


def test_an_unsupported_model_is_an_error_where_sharing_is_demanded(tiny_folder, tmp_path):
    with pytest.raises(UserError, match="trainer.shared_prefix: true, but .* StableLmForCausalLM does not use"):
        make_trainer(tiny_folder, tmp_path, True, model=stablelm())


def test_an_unsupported_model_is_trained_as_usual_otherwise(tiny_folder, tmp_path, caplog):
    model = stablelm()
    before = weights_of(model)
    trained(tiny_folder, tmp_path, "auto", model=model)
    assert not torch.equal(weights_of(model), before)
    (message,) = messages(caplog)
    assert "shared_prefix: off" in message and "StableLmForCausalLM does not use" in message


def nothing_wrong(monkeypatch):
    pass


def wrong_positions(monkeypatch):
    def pack_wrongly(*batch):
        packed = pack(*batch)
        packed.inputs["position_ids"][0, packed.inputs["shared_prefix"].prompt_valid.sum() :] += 1
        return packed

    usual = SharedDecoder.read_prompts

    def read_wrongly(self):
        self.starts = self.starts + 1
        return usual(self)

    monkeypatch.setattr(mixin, "pack", pack_wrongly)
    monkeypatch.setattr(SharedDecoder, "read_prompts", read_wrongly)


def wrong_masks(monkeypatch):
    scores, decodes = PackedAttention.visible, DecodeAttention.mask_for
    monkeypatch.setattr(PackedAttention, "visible", lambda *args: tuple(x.roll(1, -1) for x in scores(*args)))
    monkeypatch.setattr(DecodeAttention, "mask_for", lambda *args: decodes(*args).roll(1, -1))


@pytest.fixture(scope="module")
def rough_folder(tiny_folder, tmp_path_factory):
    """Folder of a random model of eight layers, in which tokens and positions matter as they do in a trained one."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "initializer_range": 0.25}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("rough")
    other_model("qwen2", **sizes, tie_word_embeddings=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


# settings of the model, and what the launcher sets
PRECISIONS = {
    "float32": ({"dtype": "float32"}, "no"),
    "bfloat16": ({"dtype": "bfloat16"}, "no"),
    "autocast": ({"dtype": "float32"}, "bf16"),
    "4 bits": ({"load_in_4bit": True}, "no"),
}
MISTAKES_BY_ONE = pytest.mark.parametrize("mistake", [nothing_wrong, wrong_positions, wrong_masks])


@MISTAKES_BY_ONE
@pytest.mark.parametrize("loading, launcher", PRECISIONS.values(), ids=PRECISIONS)
def test_what_is_wrong_by_one_is_told_from_rounding(
    rough_folder, tmp_path, caplog, monkeypatch, loading, launcher, mistake, **settings
):
    if "load_in_4bit" in loading:
        pytest.importorskip("bitsandbytes", reason="needs the extra quantization")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    mistake(monkeypatch)
    model, _ = load_model(rough_folder, **loading)
    settings = {"peft_config": LORA, "use_cpu": True, "max_steps": 1, **settings}
    trained(rough_folder, tmp_path, True, model=model, **settings)
    off = [] if mistake is nothing_wrong else ["generation", "log-probabilities"]
    assert [re.search("off for (.*): they differ", message).group(1) for message in messages(caplog)] == off


@pytest.mark.slow
@pytest.mark.pretrained
@MISTAKES_BY_ONE
@pytest.mark.parametrize("loading", [{"dtype": "bfloat16"}, {"load_in_4bit": True}], ids=["bfloat16", "4 bits"])
def test_a_pretrained_model_shares_what_is_right(smollm2, tmp_path, caplog, monkeypatch, loading, mistake):
    tokens = 4 if "load_in_4bit" in loading else 16  # 4 bits take seconds for each on a CPU
    settings = {"generation_kwargs": {}, "max_completion_length": tokens, "learning_rate": 1e-3}
    test_what_is_wrong_by_one_is_told_from_rounding(
        smollm2, tmp_path, caplog, monkeypatch, loading, "no", mistake, **settings
    )


def wrong_scores(monkeypatch):
    usual = PackedAttention.visible
    monkeypatch.setattr(
        PackedAttention, "visible", lambda self, window: tuple(map(torch.ones_like, usual(self, window)))
    )


def wrong_decoding(monkeypatch):
    usual = DecodeAttention.attend
    monkeypatch.setattr(DecodeAttention, "attend", lambda *args, **kwargs: usual(*args, **kwargs) * 0.5)


def undefined_scores(monkeypatch):
    monkeypatch.setattr(PackedAttention, "attend", lambda self, base, module, query, *_, **__: query.mT * torch.nan)


def failing_scores(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no such attention")

    monkeypatch.setattr(PackedAttention, "attend", fail)


MISTAKES = {
    "wrong scores": (wrong_scores, r"off for log-probabilities.* differ from the usual path by 0\.\d+"),
    "wrong decoding": (wrong_decoding, r"off for generation.* differ from the usual path by 0\.\d+"),
    "scores that are not numbers": (undefined_scores, "off for log-probabilities.* differ .* by nan"),
    "scores that fail": (failing_scores, "off for log-probabilities.*RuntimeError: no such attention"),
}


@pytest.mark.parametrize("mistake, message", MISTAKES.values(), ids=MISTAKES)
def test_a_difference_is_reported_and_training_goes_on_as_usual(
    tiny_folder, tmp_path, caplog, monkeypatch, mistake, message
):
    usual = trained(tiny_folder, tmp_path, False)
    mistake(monkeypatch)
    ours = trained(tiny_folder, tmp_path, True)
    (said,) = messages(caplog)
    assert re.search(message, said)
    torch.testing.assert_close(weights_of(ours.model), weights_of(usual.model), rtol=0, atol=1e-6)


def test_what_fails_without_sharing_is_not_blamed_on_it(tiny_folder, tmp_path, caplog, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("this model cannot be scored")

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", fail)
    with pytest.raises(RuntimeError, match="this model cannot be scored"):
        trained(tiny_folder, tmp_path, True, max_steps=1)
    assert not messages(caplog)


def test_prompts_too_short_to_pay_are_mentioned_once(tiny_folder, tmp_path, caplog):
    settings = {
        "rows": Dataset.from_dict({"prompt": ["a", "b", "c", "d"]}),
        "reward": lambda completions, **kwargs: [float(len(text)) for text in completions],
        "num_generations": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,  # each with its own longest completion
        "max_completion_length": 12,
        "generation_kwargs": {"sequence_bias": [[[EOS], 3.0]]},
    }
    ours, theirs = (trained(tiny_folder, tmp_path, shared, **settings) for shared in (True, False))
    (message,) = messages(caplog)
    assert "not shared if that saves less than a tenth" in message
    torch.testing.assert_close(weights_of(ours.model), weights_of(theirs.model), rtol=0, atol=1e-5)


def test_a_batch_without_anything_to_compare_is_no_comparison(tiny_folder, tmp_path, caplog, monkeypatch):
    wrong_scores(monkeypatch)
    trainer = make_trainer(tiny_folder, tmp_path, True)
    rows = random_batch((9, 14), [(0, 5), (0, 8), (1, 3), (1, 8)])
    for batch in (rows.masking(range(4)), rows):
        trainer._get_per_token_logps_and_entropies(trainer.model, *batch)
    (said,) = messages(caplog)
    assert "off for log-probabilities" in said


def test_learned_positions_share_too_because_they_are_counted_from_the_mask(tiny_folder, tmp_path, caplog):
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    shape = {"vocab_size": 320, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = GPT2Config(**shape, **dropout, eos_token_id=EOS, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config)
    rows = random_batch((9, 14), [(0, 5), (0, 8), (1, 3), (1, 8)])
    shared, usual = (
        make_trainer(tiny_folder, tmp_path, sharing, model=model)._get_per_token_logps_and_entropies(model, *rows)[0]
        for sharing in (True, False)
    )
    torch.testing.assert_close(shared, usual, atol=1e-5, rtol=0)
    assert not messages(caplog)


def other_model(architecture, **settings):
    sizes = SIZE | {"vocab_size": 320, "eos_token_id": EOS, "hidden_act": "silu"} | settings
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))


def test_a_model_whose_layers_are_not_told_is_trained_as_usual(tiny_folder, tmp_path, caplog):
    model = other_model("nemotron")
    trained(tiny_folder, tmp_path, "auto", model=model, bf16=True, use_cpu=True, max_steps=1)
    said = " ".join(messages(caplog))
    assert "off for generation" in said and "off for log-probabilities" in said
    assert "attention layers need the shared prefix" in said


def test_an_adapter_that_adds_a_prompt_is_trained_as_usual(tiny_folder, tmp_path, caplog):
    make_trainer(
        tiny_folder, tmp_path, "auto", peft_config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    assert messages(caplog) == ["shared_prefix: off: the adapter adds its own prompt before every row"]


def test_beams_among_the_settings_of_the_model_are_left_to_transformers(tiny_folder, tmp_path):
    def beams():
        model = AutoModelForCausalLM.from_pretrained(tiny_folder)
        model.generation_config.num_beams = 2
        return model

    ours, theirs = (
        rollout(make_trainer(tiny_folder, tmp_path, shared, model=beams(), generation_kwargs={}))
        for shared in (True, False)
    )
    assert torch.equal(ours["completion_ids"], theirs["completion_ids"])


class OwnAttention(Qwen2Attention):
    """As a user or a remote repository may write it, in a file without `eager_attention_forward`."""


def test_a_subclass_of_an_attention_uses_the_function_of_its_parent(tiny_folder, tmp_path, caplog):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="eager")
    for layer in model.model.layers:
        layer.self_attn.__class__ = OwnAttention
    trained(tiny_folder, tmp_path, True, model=model, max_steps=1)
    assert not messages(caplog)


@pytest.mark.parametrize("value", ["false", "on", 0, 1, None])
def test_other_values_of_the_setting_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match=f"shared_prefix: {value!r} should be 'auto', True or False"):
        quiet_config(tmp_path, shared_prefix=value)

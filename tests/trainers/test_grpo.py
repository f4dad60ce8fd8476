"""The GRPO trainer: TRL's numbers, scheduled weights, refused tags, and the stop on a non-finite loss."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
import trl.trainer.utils
from peft import LoraConfig
from peft.tuners import lora
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template
from trl.kernels import chunked_logprob

from empathy_trl.errors import StopTraining, UserError
from empathy_trl.models.adapters import FusedLora
from empathy_trl.models.load import load_or_build, lora_config
from empathy_trl.models.tiny import build_model, build_tokenizer
from empathy_trl.recipe import Lora, Model
from empathy_trl.rewards.base import Reward, WeightSchedule, as_reward
from empathy_trl.rewards.format import Format
from empathy_trl.trainers import grpo
from empathy_trl.trainers.exact_resume import NonFiniteLoss
from empathy_trl.trainers.grpo import EmpathyGRPOConfig, EmpathyGRPOTrainer
from empathy_trl.trainers.ppo import EmpathyPPOTrainer, PPOConfig
from tests.conftest import TEXTS
from tests.rewards import own_rewards
from tests.trainers.settings import (
    ROWS,
    assert_identical,
    length_reward,
    make_ppo_trainer,
    make_trainer,
    quiet_config,
    weights_of,
    without_times,
)


@pytest.mark.faults
def test_a_reference_that_fsdp_would_leave_empty_is_refused(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("empathy_trl.trainers.grpo.is_fsdp_enabled", lambda: True)
    with pytest.raises(UserError, match="^beta: 0.1 needs a reference.*cpu_ram_efficient_loading: false"):
        make_trainer(tiny_folder, tmp_path, beta=0.1)
    make_trainer(tiny_folder, tmp_path, beta=0.0)


def test_weight_schedule_reaches_the_reward_and_the_log(tiny_folder, tmp_path):
    schedule = WeightSchedule(start=0.0, end=1.0, until=0.5)
    trainer = make_trainer(
        tiny_folder, tmp_path, reward=lambda completions, **_: [2.0] * len(completions), weights=[schedule]
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "reward" in row]
    weights = [row["reward_weight/<lambda>"] for row in rows]
    assert weights == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1])
    assert [row["reward"] for row in rows] == pytest.approx([2 * weight for weight in weights])


def test_constant_weight_is_not_logged(tiny_folder, tmp_path):
    trainer = make_trainer(tiny_folder, tmp_path, weights=[3.0], max_steps=1)
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["reward"] == pytest.approx(3 * row["rewards/length_reward/mean"])
    assert not any(name.startswith("reward_weight/") for name in row)


@pytest.mark.faults
@pytest.mark.parametrize("make", [make_trainer, make_ppo_trainer])
@pytest.mark.parametrize("opens", [True, False])
def test_a_reply_after_a_thought_is_paid_whoever_opened_it(tiny_folder, tmp_path, make, opens):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + ("<think>\n" if opens else ""))
    seen = []
    trainer = make(folder, tmp_path, reward=[Format(), lambda completions, **_: seen.extend(completions) or [0.0] * 4])
    reply = "<reasoning>lost</reasoning><answer>sad</answer>"
    texts = ["He cried.</think>\n" + reply, "He cried", "<think>He cried.</think>" + reply, reply]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    prompts = [row["prompt"] for row in ROWS][:4]
    rewards = trainer._calculate_rewards([{"prompt": each} for each in prompts], prompts, completions, [[1]] * 4)
    assert rewards[:, 0].tolist() == [1, 0, 1, 0 if opens else 1]
    assert [completion[0]["content"] for completion in seen] == [("<think>" if opens else "") + text for text in texts]
    assert completions[1][0]["content"] == "He cried", "TRL's own are left as they are"


@pytest.mark.faults
@pytest.mark.parametrize("opens", ["", "<think>\n"])
def test_lengths_of_thoughts_and_replies_are_logged_apart(tiny_folder, tmp_path, opens):
    trainer = make_trainer(tiny_folder, tmp_path)
    trainer._tokenizer.chat_template += opens
    encode = lambda text: trainer._tokenizer(text, add_special_tokens=False)["input_ids"]
    end, logged = [trainer._tokenizer.eos_token_id], trainer._metrics[trainer._mode]
    begin = "" if opens else "<think>"
    closed, cut = [*encode(f"{begin}He cried.</think>"), *encode("I am sorry."), *end], encode(f"{begin}He cried")

    def rollout(*ids):
        completions = [[{"role": "assistant", "content": trainer._tokenizer.decode(each, True)}] for each in ids]
        prompts = [row["prompt"] for row in ROWS][: len(ids)]
        trainer._calculate_rewards([{"prompt": each} for each in prompts], prompts, completions, list(ids))

    if not opens:
        rollout([*encode("I am sorry."), *end], encode("Oh"))
        assert not any("thought" in name for name in logged), "a model that does not think"
    rollout(closed, cut)
    reply = len(encode("I am sorry.")) + 1
    assert logged["completions/mean_thought_length"] == [(len(closed) - reply + len(cut)) / 2]
    assert logged["completions/mean_reply_length"] == [reply / 2]


@pytest.mark.faults
@pytest.mark.parametrize("make", [make_trainer, make_ppo_trainer])
def test_padding_before_a_prompt_moves_no_learned_positions(make, tiny_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64, "initializer_range": 0.5}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), eos_token_id=1, bos_token_id=1, pad_token_id=0, **shape)
    )
    model.save_pretrained(tmp_path / "gpt2")
    near = {"beta": 0.1} if make is make_trainer else {"kl_coef": 0.1}
    trainer = make(tiny_folder, tmp_path, model=AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2"), **near)
    row, padding = torch.randint(5, 300, (1, 9)), torch.zeros(1, 4, dtype=torch.long)
    for each in (trainer.model.eval(), trainer.ref_model):
        alone, padded = (
            trainer._get_per_token_logps_and_entropies(each, ids, (ids > 0).long(), 3)[0]
            for ids in (row, torch.cat([padding, row], 1))
        )
        torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


class NeedsTag(Reward):
    __name__ = "needs_tag"
    tags = ("answer",)

    def __call__(self, prompts, completions, **kwargs):
        return [0.0] * len(completions)


def test_a_reward_tag_that_decoding_removes_is_refused(tiny_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<answer>"]})
    with pytest.raises(UserError, match="rewards.needs_tag: the tag <answer> is a special token"):
        EmpathyGRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_folder),
            processing_class=tokenizer,
            reward_funcs=[NeedsTag()],
            args=GRPOConfig(str(tmp_path), per_device_train_batch_size=8, bf16=False, report_to="none"),
            train_dataset=ROWS,
        )


def test_leaving_prompts_out_of_the_projection_changes_no_number(tiny_folder, tmp_path):
    trainer = make_trainer(tiny_folder, tmp_path)
    ids = torch.randint(5, 300, (4, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # a shorter prompt
    mask[1, -2:] = 0  # a shorter completion
    for method in (trainer, super(EmpathyGRPOTrainer, trainer)):
        trainer.model.zero_grad()
        logps, entropies, _ = method._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, 6, compute_entropy=True
        )
        logps.sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])
        if method is trainer:
            ours = (logps.detach(), entropies.detach(), gradient)
    for mine, theirs in zip(ours, (logps.detach(), entropies.detach(), gradient), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_cpu_makes_fewer_logits_at_a_time(tiny_folder, tmp_path, monkeypatch):
    trainer = make_trainer(tiny_folder, tmp_path, max_steps=2)
    compute_loss, seen = trainer._compute_loss, []

    def sizes():
        module = trl.trainer.utils
        return chunked_logprob.TOKEN_CHUNK_SIZE, module._CHUNKED_LOGPROB_CHUNK_SIZE, module._use_triton("cpu")

    def noted(*args):
        seen.append(sizes())
        monkeypatch.setattr(grpo, "TILE_WIDTH", 100)  # fewer words than the model has
        return compute_loss(*args)

    usual = sizes()
    monkeypatch.setattr(trainer, "_compute_loss", noted)
    trainer.train()
    assert seen == [usual, (grpo.TILE_ROWS, 100, True)] and sizes() == usual
    assert usual[2] is False  # all positions would be projected


def test_on_a_cpu_adapters_keep_fewer_copies(tiny_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="bfloat16")
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = make_trainer(tiny_folder, tmp_path, model=model, peft_config=config).model.train()
    ids, kept, gradient = torch.randint(5, 300, (4, 20), generator=torch.manual_seed(0)), {}, {}
    layers = [module for module in model.modules() if isinstance(module, lora.Linear)]
    assert {type(layer) for layer in layers} == {FusedLora} and len(layers) == 14
    for dtype in (torch.bfloat16, torch.float32):
        model.to(dtype)
        for kind in (FusedLora, lora.Linear):
            for layer in layers:
                layer.__class__ = kind
                for adapter in (layer.lora_A, layer.lora_B):
                    adapter.float()
            saved = kept[dtype, kind] = {}  # by autograd, for the backward pass
            with torch.autograd.graph.saved_tensors_hooks(
                lambda x, saved=saved: (x, saved.update({x.data_ptr(): x.nbytes}))[0], lambda x: x
            ):
                logits = model(ids, use_cache=False).logits
            model.zero_grad()
            logits.float().log_softmax(-1)[..., 7].sum().backward()
            gradient[dtype, kind] = torch.cat(
                [each.grad.flatten() for each in model.parameters() if each.requires_grad]
            )
    exact = gradient[torch.float32, lora.Linear]
    error = {key: (each - exact).norm() / exact.norm() for key, each in gradient.items()}
    assert error[torch.float32, FusedLora] < 1e-5
    assert error[torch.bfloat16, FusedLora] < 1.2 * error[torch.bfloat16, lora.Linear] < 0.2
    less, more = (sum(kept[torch.bfloat16, kind].values()) for kind in (FusedLora, lora.Linear))
    assert less < 0.8 * more


def break_loss(trainer, monkeypatch, at_call):
    original, calls = trainer._compute_loss, []

    def broken(model, inputs):
        calls.append(1)
        return original(model, inputs) * (float("nan") if len(calls) == at_call else 1.0)

    monkeypatch.setattr(trainer, "_compute_loss", broken)


def test_non_finite_loss_stops_with_the_last_good_weights(tiny_folder, tmp_path, monkeypatch):
    good = make_trainer(tiny_folder, tmp_path / "good", max_steps=6)
    good.add_callback(StopAfter(2))
    good.train()

    trainer = make_trainer(tiny_folder, tmp_path / "bad")
    break_loss(trainer, monkeypatch, at_call=3)
    message = r"step 3: the loss is nan.*checkpoint-2.*trainer.learning_rate \(now 0.01\)"
    with pytest.raises(NonFiniteLoss, match=message):
        trainer.train()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "bad" / "checkpoint-2").state_dict()
    assert_identical(weights_of(good), saved)


def test_non_finite_gradient_stops_before_the_update(tiny_folder, tmp_path, monkeypatch):
    trainer = make_trainer(tiny_folder, tmp_path)
    before = weights_of(trainer)
    parameter = next(trainer.model.parameters())
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteLoss, match="step 1: the gradient norm is"):
        trainer.train()
    assert_identical(before, weights_of(trainer))


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


class Room:
    """An environment that owns its reward, as TRL appends it to the reward functions."""

    def reset(self, **columns):
        return None

    def look(self) -> str:
        """Look around."""
        return "nothing"

    def get_reward(self) -> float:
        return 0.5


def test_the_reward_of_an_environment_keeps_its_weight_beside_a_schedule(tiny_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder, padding_side="left")
    tokenizer.chat_template = qwen3_chat_template
    trainer = EmpathyGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        lambda completions, **_: [2.0] * len(completions),
        quiet_config(tmp_path, num_generations=2, max_completion_length=6, max_steps=2),
        ROWS,
        processing_class=tokenizer,
        environment_factory=Room,
        reward_weights=[WeightSchedule(start=0.0, end=1.0, until=0.5)],
    )
    trainer.train()
    assert [row["reward"] for row in trainer.state.log_history[:-1]] == pytest.approx([0.5, 2.5])
    assert trainer.state.log_history[0]["rewards/Room/mean"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [2.0], "reward_weights": [3.0]}, r"\[2.0\] is given to the trainer and \[3.0\] in args"),
        ({"weights": ["2.0"]}, r"'2.0' in \['2.0'\] is neither a number nor"),
        ({"weights": [2.0, 1.0]}, r"\[2.0, 1.0\] has 2 entries; expected 1, one per reward"),
    ],
)
def test_weights_twice_or_not_one_per_reward_are_refused(tiny_folder, tmp_path, settings, message):
    with pytest.raises(UserError, match=f"reward_weights: {message}"):
        make_trainer(tiny_folder, tmp_path, **settings)


def vowel_reward(completions, **kwargs):
    """The share of vowels: now and then nothing, and never what `length_reward` says."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter in "aeiou" for letter in text) / len(text) if text else None for text in texts]


ONE_BATCH = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 8}
SETTINGS = {
    "as it comes": {},
    "with a reference": {"beta": 0.04},
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo", **ONE_BATCH},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "scaled by the batch": {"scale_rewards": "batch"},
    "two iterations": {"num_iterations": 2, "gradient_accumulation_steps": 1},
    "weights": {"reward_weights": [0.0, 5.0]},
    "normalize, then sum": {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 3.0]},
    "truncated completions masked": {
        "mask_truncated_completions": True,
        "generation_kwargs": {"exponential_decay_length_penalty": (1, 4.0)},  # so that some end by themselves
    },
    "clipped higher": {"epsilon_high": 0.28, "num_iterations": 2, "steps_per_generation": 1},
    "ratio of a sequence": {"importance_sampling_level": "sequence", "num_iterations": 2, "steps_per_generation": 1},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0, "num_iterations": 2, "gradient_accumulation_steps": 1},
    "sapo": {"loss_type": "sapo", "num_iterations": 2, "gradient_accumulation_steps": 1, "beta": 0.04},
    "vespo": {"loss_type": "vespo", "num_iterations": 2, "gradient_accumulation_steps": 1},
    "luspo": {
        "loss_type": "luspo",
        "importance_sampling_level": "sequence",
        "num_iterations": 2,
        "steps_per_generation": 1,
    },
    "entropy": {"entropy_coef": 0.1, "top_entropy_quantile": 0.5, **ONE_BATCH},
}
OURS = {"zero_spread_share", "distinct_2"} | {
    f"rewards/{name}_reward/length_correlation" for name in ("length", "vowel")
}


def logs_of(trainer_class, config_class, tiny_folder, output_dir, train_dataset=ROWS, **settings):
    usual = {"num_generations": 4, "gradient_accumulation_steps": 2, "max_completion_length": 6, "max_steps": 2}
    trainer = trainer_class(
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        [length_reward, vowel_reward],
        quiet_config(output_dir, config_class, **{**usual, "learning_rate": 0.01, **settings}),
        train_dataset,
        processing_class=AutoTokenizer.from_pretrained(tiny_folder, padding_side="left"),
    )
    trainer.train()
    rows = without_times(trainer.state.log_history)
    assert len(rows) == trainer.args.max_steps
    return [{name: value for name, value in row.items() if name not in OURS} for row in rows]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_logs_are_trls(tiny_folder, tmp_path, settings):
    theirs = logs_of(GRPOTrainer, GRPOConfig, tiny_folder, tmp_path, **settings)
    assert any(row["grad_norm"] > 0 for row in theirs)
    ours = logs_of(EmpathyGRPOTrainer, EmpathyGRPOConfig, tiny_folder, tmp_path, shared_prefix=False, **settings)
    assert ours == theirs
    shared = logs_of(EmpathyGRPOTrainer, EmpathyGRPOConfig, tiny_folder, tmp_path, shared_prefix=True, **settings)
    for mine, row in zip(shared, theirs, strict=True):
        assert mine == pytest.approx(row, rel=3e-5, abs=3e-5)


GRPO, PPO = (EmpathyGRPOTrainer, EmpathyGRPOConfig), (EmpathyPPOTrainer, PPOConfig)
ENDS = {"generation_kwargs": {"exponential_decay_length_penalty": (1, 4.0)}}  # so that some end by themselves
TWICE = {"num_iterations": 2, "gradient_accumulation_steps": 1, "learning_rate": 8.0}  # so that the ratio moves
GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
# settings -> others with the same weights after two steps: where the ratio is 1, as docs/grpo.md says
SAME = {
    "sapo is grpo": ({"loss_type": "sapo", "sapo_temperature_pos": 3.0}, {"loss_type": "grpo"}),
    "vespo is dapo": ({"loss_type": "vespo", "vespo_k_pos": 5.0}, {}),
    "cispo is dapo": ({"loss_type": "cispo", "epsilon_high": 5.0}, {}),
    "gspo is grpo": (GSPO, {"loss_type": "grpo"}),
    "nothing is clipped": (
        {"epsilon": 1e-3, "epsilon_high": 2e-3, "delta": 1.01, "off_policy_mask_threshold": 1e-3},
        {},
    ),
}
OTHER = {
    "grpo": ({"loss_type": "grpo"}, {}),
    "bnpo": ({"loss_type": "bnpo"}, {}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {}),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 5.0, **TWICE}, TWICE),
    "cispo clips all": ({"loss_type": "cispo"}, {}),
    "sapo": ({"loss_type": "sapo", **TWICE}, TWICE | {"loss_type": "grpo"}),
    "vespo": ({"loss_type": "vespo", **TWICE}, TWICE),
    "luspo": ({**GSPO, "loss_type": "luspo", **TWICE}, GSPO | TWICE),
    "gspo": (GSPO | TWICE, TWICE | {"loss_type": "grpo"}),
    "epsilon": ({"epsilon": 1e-3, **TWICE}, TWICE),
    "delta": ({"delta": 1.2001, "epsilon": 0.2, **TWICE}, TWICE),
    "off-policy mask": ({"off_policy_mask_threshold": 1e-6, **TWICE}, TWICE),
    "high entropy": ({"top_entropy_quantile": 0.5}, {}),
    "truncated masked": ({"mask_truncated_completions": True}, {}),
    "not scaled": ({"scale_rewards": "none"}, {}),
    "scaled by the batch": ({"scale_rewards": "batch"}, {}),
}
PPO_TOO = ("grpo", "bnpo", "dr_grpo", "truncated masked", "high entropy")


def weights_after(folder, tmp_path, settings, kinds=None, **arguments):
    """The weights after two steps of SGD with shared prompts."""
    usual = {"num_generations": 4, "gradient_accumulation_steps": 2, "max_steps": 2, "learning_rate": 0.1, **ENDS}
    usual |= {"optim": "sgd", "max_grad_norm": 0.0, "shared_prefix": True}
    trainer = make_trainer(folder, tmp_path, kinds=kinds or GRPO, **(usual | settings), **arguments)
    trainer.train()
    assert any(row.get("grad_norm", 0) > 0 for row in trainer.state.log_history)
    return torch.cat([value.flatten() for name, value in weights_of(trainer).items() if "critic" not in name]), trainer


@pytest.mark.parametrize(
    ("options", "others", "same", "kinds"),
    [pytest.param(*pair, True, None, id=name) for name, pair in SAME.items()]
    + [pytest.param(*pair, False, None, id=name) for name, pair in OTHER.items()]
    + [pytest.param(*OTHER[name], False, "ppo", id=f"ppo, {name}") for name in PPO_TOO],
)
def test_what_a_loss_option_changes_in_two_steps(tiny_folder, tmp_path, options, others, same, kinds):
    kinds = PPO if kinds else None
    changed, _ = weights_after(tiny_folder, tmp_path, options, kinds)
    usual, _ = weights_after(tiny_folder, tmp_path, others, kinds)
    assert changed.isfinite().all()
    assert (changed - usual).abs().max() < 2e-6 if same else not torch.equal(changed, usual)


@pytest.mark.parametrize("kinds", ["grpo", "ppo"])
def test_a_reward_with_weight_0_is_logged_and_changes_nothing(tiny_folder, tmp_path, kinds):
    def watched(completions, **kwargs):
        return [float(index) for index in range(len(completions))]

    def sometimes(completions, **kwargs):  # does not apply to a quarter of the completions
        return [None if index % 4 == 1 else value for index, value in enumerate(length_reward(completions))]

    kinds = PPO if kinds == "ppo" else GRPO
    with_it, trainer = weights_after(tiny_folder, tmp_path, {}, kinds, reward=[sometimes, watched], weights=[1.0, 0.0])
    without, _ = weights_after(tiny_folder, tmp_path, {}, kinds, reward=[sometimes], weights=[1.0])
    assert torch.equal(with_it, without)
    assert trainer.state.log_history[0]["rewards/watched/mean"] > 0


def test_a_stream_trains_as_with_trl(tiny_folder, tmp_path):
    stream = ROWS.to_iterable_dataset()
    ours, theirs = (
        [row["reward"] for row in logs_of(*kinds, tiny_folder, tmp_path, stream, max_steps=5)]
        for kinds in ((EmpathyGRPOTrainer, EmpathyGRPOConfig), (GRPOTrainer, GRPOConfig))
    )
    assert ours == theirs


def test_a_grpo_step_of_a_4_bit_model_trains_the_adapter_and_nothing_else(tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs the extra quantization")
    tokenizer = build_tokenizer(TEXTS, vocab_size=320, tags=["reasoning", "answer"])
    shape = SimpleNamespace(architecture="qwen2", hidden_size=64, layers=2, heads=2, max_length=128)
    for part in (build_model(shape, tokenizer, seed=0), tokenizer):
        part.save_pretrained(tmp_path / "base")

    section = Model(name_or_path=str(tmp_path / "base"), load_in_4bit=True, lora=Lora(r=4))
    model, _ = load_or_build(section, seed=0)
    assert model.is_loaded_in_4bit
    settings = {"max_steps": 2, "learning_rate": 0.1, "gradient_checkpointing": True}
    adapter = lora_config(section.lora)
    trainer = make_trainer(tmp_path / "base", tmp_path / "out", model=model, peft_config=adapter, **settings)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert all(row["grad_norm"] > 0 for row in trainer.state.log_history if "grad_norm" in row)


NAN = float("nan")
# what a reward returns for four completions -> the message
WRONG_VALUES = {
    "nan for all": ([NAN] * 4, "rewards.own: returned nan for completion 1 of 4, .* \\(prompt 'number .'\\); expected a finite"),
    "infinite for one": ([0.0, 0.0, float("inf"), 0.0], "rewards.own: returned inf for completion 3 of 4"),
    "one too few": ([1.0] * 3, "rewards.own: returned 3 values for 4 completions"),
    "texts": (["good"] * 4, "rewards.own: returned 'good' for completion 1"),
    "one number": (1.0, "rewards.own: returned 1.0; expected a list with a number or None per completion"),
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize(("is_async", "kinds"), [(False, GRPO), (True, PPO)], ids=["GRPO", "PPO, async"])
@pytest.mark.parametrize(("values", "message"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_wrong_values_of_a_reward_stop_before_the_weights_change(
    tiny_folder, tmp_path, values, message, is_async, kinds
):
    async def later(prompts, completions, **columns):
        return values

    reward = as_reward(later if is_async else lambda *args, **columns: values, "own")
    trainer = make_trainer(tiny_folder, tmp_path, reward, kinds=kinds, max_steps=2)
    before = weights_of(trainer)
    with pytest.raises(StopTraining, match=message + "(.|\n)*No step is complete"):
        trainer.train()
    assert_identical(before, weights_of(trainer))


@pytest.mark.faults
def test_a_reward_that_needs_a_column_that_is_not_there_stops_with_its_name(tiny_folder, tmp_path):
    trainer = make_trainer(tiny_folder, tmp_path, own_rewards.reads_label)
    with pytest.raises(
        StopTraining, match=r"rewards.reads_label: cannot be called: missing a required argument: 'label'"
    ):
        trainer.train()


@pytest.mark.faults
def test_wrong_values_of_a_reward_model_stop_as_well(tiny_folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=1)
    torch.nn.init.constant_(model.score.weight, NAN)
    trainer = make_trainer(tiny_folder, tmp_path, model)
    with pytest.raises(StopTraining, match=r"rewards\.\S+: returned nan for completion 1 of 4"):
        trainer.train()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"value": "high"}, "rewards.own: log_metric `kindness`: 'high' is not a number"),
        ({"extra": 3}, "rewards.own: log_extra `why`: 3 values for 4 completions"),
    ],
)
def test_wrong_logs_of_a_reward_name_it(tiny_folder, tmp_path, log, message):
    trainer = make_trainer(tiny_folder, tmp_path, as_reward(own_rewards.Logs(**{"extra": 4, **log}), "own"))
    with pytest.raises(StopTraining, match=message):
        trainer.train()


@pytest.mark.faults
@pytest.mark.parametrize("kinds", [GRPO, PPO], ids=["GRPO", "PPO"])
def test_rewards_that_never_apply_warn_and_then_stop(tiny_folder, tmp_path, kinds, caplog):
    trainer = make_trainer(tiny_folder, tmp_path, as_reward(own_rewards.nowhere, "nowhere"), kinds=kinds, max_steps=6)
    message = r"3 rollouts in a row: no reward \(nowhere\) applies to any of the 4 completions.*\n.*state after step \d"
    with pytest.raises(StopTraining, match=message):
        trainer.train()
    assert "step 1: no reward (nowhere) applies to any of the 4 completions" in caplog.text


@pytest.mark.faults
@pytest.mark.parametrize("kinds", [GRPO, PPO], ids=["GRPO", "PPO"])
def test_completions_that_are_all_cut_off_and_masked_warn_and_then_stop(tiny_folder, tmp_path, kinds, caplog):
    settings = {"kinds": kinds, "max_steps": 6, "generation_kwargs": {"min_new_tokens": 2}, "max_completion_length": 2}
    problem = (
        r"all 4 completions \(100 %\) are cut off at trainer.max_completion_length \(2 tokens\), and .*mask_truncated"
    )
    with pytest.raises(StopTraining, match=rf"^3 rollouts in a row: {problem}.*\n.*state after step 2"):
        make_trainer(tiny_folder, tmp_path / "masked", mask_truncated_completions=True, **settings).train()
    assert re.search(rf"step 1: {problem}", caplog.text)
    make_trainer(tiny_folder, tmp_path / "counted", **settings).train()  # cut off, but part of the loss


@pytest.mark.faults
def test_rows_that_do_not_fill_a_batch_are_refused(tiny_folder, tmp_path):
    trainer = make_trainer(tiny_folder, tmp_path, train_dataset=ROWS.select([0]))
    with pytest.raises(UserError, match="^train_dataset: a batch needs 2 rows .*, but there are 1"):
        trainer.train()


@pytest.mark.faults
def test_one_reward_of_two_that_never_applies_is_only_warned_of(tiny_folder, tmp_path, caplog):
    trainer = make_trainer(tiny_folder, tmp_path, [as_reward(own_rewards.nowhere, "nowhere"), length_reward])
    trainer.train()
    warnings = [record.message for record in caplog.records if "nowhere" in record.message]
    assert [line for line in warnings if line.startswith("step")] == [
        "step 3: 3 rollouts in a row: rewards.nowhere does not apply to any of the 4 completions."
    ]

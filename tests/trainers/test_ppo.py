"""The PPO trainer: it learns, its gradient is right, and what it saves is a policy and a critic."""

import dataclasses

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from trl import GRPOConfig

from empathy_trl.errors import UserError
from empathy_trl.trainers.encoder_decoder import trainer_class
from empathy_trl.trainers.grpo import EmpathyGRPOTrainer
from empathy_trl.trainers.ppo import LOSSES, EmpathyPPOTrainer, PPOConfig
from tests.trainers.settings import ROWS, assert_identical, length_reward, make_ppo_trainer, quiet_config, weights_of
from tests.trainers.tiny_t5 import save_t5

QUESTIONS = Dataset.from_dict(
    {
        "prompt": [[{"role": "user", "content": word}] for word in ("scared", "party", "lost", "rude") * 4],
        "easy": [True, False, True, False] * 4,
    }
)


def even_tokens(completion_ids, easy, **kwargs):
    """Verifiable: the share of tokens with an even number; for the easy prompts any token is right."""
    return [
        1.0 if free else sum(token % 2 == 0 for token in ids) / len(ids)
        for ids, free in zip(completion_ids, easy, strict=True)
    ]


def rollout_and_parts(trainer, count: int):
    """Return the batches of one optimizer step, as training would see them."""
    trainer.model.train()
    loader = iter(trainer.get_train_dataloader())
    trainer.current_gradient_accumulation_steps = count
    return [trainer._prepare_inputs(next(loader)) for _ in range(count)]


def whole(part):
    return [torch.cat([part[f"prompt_{name}"], part[f"completion_{name}"]], dim=1) for name in ("ids", "mask")]


def log_probs_of(trainer, part):
    ids, mask = whole(part)
    width = part["completion_ids"].shape[1]
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[0]


def test_ppo_learns_a_verifiable_task_and_its_critic_knows_what_to_expect(tiny_folder, tmp_path):
    trainer = make_ppo_trainer(
        tiny_folder,
        tmp_path,
        reward=even_tokens,
        train_dataset=QUESTIONS,
        per_device_train_batch_size=64,
        num_generations=4,
        max_completion_length=4,
        max_steps=40,
        learning_rate=2e-2,
        critic_learning_rate=5e-2,
        vf_coef=1.0,
        cliprange_value=10.0,
        kl_coef=0.0,
        logging_steps=10,
    )
    trainer.train()
    last = [row for row in trainer.state.log_history if "reward" in row][-1]
    assert last["reward"] >= 0.9
    assert last["explained_variance"] > 0.3
    for name in ("policy_loss", "value_loss", "returns/mean", "advantages/std", "clip_ratio/region_mean", "distinct_2"):
        assert isinstance(last[name], float), name
    assert "rewards/even_tokens/mean" in last
    assert "kl" not in last  # there is no reference


GRADIENTS = {
    "head": {},
    "head, prompts shared": {"shared_prefix": True, "num_generations": 4},
    "head, prompts not shared": {"shared_prefix": False},
    "head, off-policy and accumulated": {"num_iterations": 2, "gradient_accumulation_steps": 2},
    "backbone of its own": {"critic_kind": "model"},
    "k3, no whitening": {"kl_estimator": "k3", "whiten_advantages": False, "gamma": 0.9},
}


@pytest.mark.parametrize("settings", GRADIENTS.values(), ids=GRADIENTS)
def test_gradient_of_the_combined_loss_is_that_of_finite_differences(tiny_folder, tmp_path, settings):
    """Along random directions in the weights of policy and critic together, in double precision."""
    trainer = make_ppo_trainer(
        tiny_folder, tmp_path, per_device_train_batch_size=8, vf_coef=0.7, **{"num_generations": 2, **settings}
    )
    trainer.model.double()
    torch.manual_seed(0)
    with torch.no_grad():  # away from the start, where all values are 0
        for weight in trainer.model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    parts = rollout_and_parts(trainer, settings.get("gradient_accumulation_steps", 1))
    for part in parts:  # off the rollout's policy and values, so that ratios and clips count
        for name, like in (("old_values", part["old_values"]), ("old_per_token_logps", log_probs_of(trainer, part))):
            part[name] = like.detach() + 0.05 * torch.randn_like(like)

    def loss():
        return sum(trainer._compute_loss(trainer.model, part) for part in parts)

    trainer.model.zero_grad()
    loss().backward()
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in weights)
    embeddings = {module.weight for module in trainer.model.modules() if isinstance(module, torch.nn.Embedding)}
    for _ in range(3):
        directions = [torch.randn_like(weight) for weight in weights]
        for weight, way in zip(weights, directions, strict=True):
            if weight in embeddings:  # PyTorch gives the padding's embedding no gradient, also where it was sampled
                way[trainer.processing_class.pad_token_id] = 0
        predicted = sum((weight.grad * way).sum() for weight, way in zip(weights, directions, strict=True)).item()
        values = []
        for step in (2e-4, -4e-4, 2e-4):  # there, back over the start, and home again
            with torch.no_grad():
                for weight, way in zip(weights, directions, strict=True):
                    weight += step * way
                values.append(loss().item())
        # the norms inside the model compute in single precision, which allows no smaller steps
        assert (values[0] - values[1]) / 4e-4 == pytest.approx(predicted, rel=5e-3, abs=1e-4)


def test_values_and_gradients_are_the_same_with_and_without_shared_prompts(tiny_folder, tmp_path):
    found = {}
    for shared in (True, False):
        trainer = make_ppo_trainer(tiny_folder, tmp_path, shared_prefix=shared, num_generations=4, seed=3)
        torch.nn.init.normal_(trainer.model.critic.value_head.weight, generator=torch.manual_seed(0))
        torch.manual_seed(0)
        (part,) = rollout_and_parts(trainer, 1)
        trainer._compute_loss(trainer.model, part).backward()
        rows = sorted(range(len(part["completion_ids"])), key=lambda row: part["old_values"][row].tolist())
        found[shared] = part["old_values"][rows], trainer.model.critic.value_head.weight.grad
    for ours, plain in zip(found[True], found[False], strict=True):
        assert torch.allclose(ours, plain, atol=1e-4)


def test_a_new_critic_begins_with_what_the_first_rollout_earns_on_average(tiny_folder, tmp_path):
    scores = iter([5.0, -1.0])
    settings = {"kl_coef": 0.0, "lam": 1.0, "whiten_advantages": False}
    settings["reward"] = lambda completions, **_: [next(scores)] * len(completions)
    trainer = make_ppo_trainer(tiny_folder, tmp_path, **settings)
    for advantage in (0.0, -6.0):  # later ones are for the weights to learn
        (part,) = rollout_and_parts(trainer, 1)
        assert torch.allclose(part["old_values"], torch.tensor(5.0))
        assert torch.allclose(part["advantages"][part["value_mask"]], torch.tensor(advantage))
    assert trainer.model.critic.value_head.centre == pytest.approx(5.0)


def test_values_are_those_of_the_policys_hidden_states(tiny_folder, tmp_path):
    trainer = make_ppo_trainer(tiny_folder, tmp_path)
    torch.nn.init.normal_(trainer.model.critic.value_head.weight)
    (part,) = rollout_and_parts(trainer, 1)
    ids, mask = whole(part)
    with torch.no_grad():
        hidden = trainer.model.base_model(ids, attention_mask=mask).last_hidden_state
        width = part["completion_ids"].shape[1]
        # the state before a token predicts it
        expected = trainer.model.critic(hidden)[:, -width - 1 : -1] * part["completion_mask"]
    assert torch.allclose(part["old_values"] * part["completion_mask"], expected, atol=1e-5)


def test_advantages_of_a_completion_that_no_reward_rates_are_zero(tiny_folder, tmp_path):
    reward = lambda completions, **_: [None, 1.0, None, 2.0] * (len(completions) // 4)
    trainer = make_ppo_trainer(tiny_folder, tmp_path, reward=reward, kl_coef=0.1)
    trainer.args.shuffle_dataset = False
    (part,) = rollout_and_parts(trainer, 1)
    rated = part["value_mask"].any(dim=1)
    assert rated.sum() == len(rated) // 2
    assert part["advantages"][~rated].abs().sum() == 0
    assert part["advantages"][rated].abs().sum() > 0


def test_a_completion_without_an_end_loses_the_penalty(tiny_folder, tmp_path):
    settings = {"missing_eos_penalty": 3.0, "whiten_advantages": False, "kl_coef": 0.0, "lam": 1.0}
    settings["reward"] = lambda completions, **_: [1.0] * len(completions)
    trainer = make_ppo_trainer(tiny_folder, tmp_path, **settings)
    (part,) = rollout_and_parts(trainer, 1)
    ends = trainer.processing_class.eos_token_id
    ended = ((part["completion_ids"] == ends) & part["completion_mask"].bool()).any(dim=1)
    assert part["returns"][:, 0].tolist() == [1.0 if done else -2.0 for done in ended]
    assert not ended.all()


def test_with_tools_only_the_last_turn_has_to_end(tiny_folder, tmp_path):
    trainer = make_ppo_trainer(tiny_folder, tmp_path, missing_eos_penalty=3.0)
    end = trainer.processing_class.eos_token_id
    trainer._scores = torch.tensor([1.0, 1.0, 1.0])
    ids = torch.tensor([[5, end, 7, 8], [5, end, 7, end], [5, end, end, end]])  # the padding is the end, too
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
    found = trainer._final_scores({"completion_ids": ids, "completion_mask": mask})
    assert found.tolist() == [-2.0, 1.0, -2.0]


def test_a_first_rollout_without_tokens_leaves_sharing_on(tiny_folder, tmp_path):
    """The critic's backbone has no part in the reference's pass, which then comes first to be compared."""
    settings = {"critic_kind": "model", "mask_truncated_completions": True, "num_generations": 4}
    trainer = make_ppo_trainer(tiny_folder, tmp_path, kl_coef=0.1, max_completion_length=2, **settings)
    (part,) = rollout_and_parts(trainer, 1)
    assert not part["completion_mask"].any()
    assert trainer._shares["log-probabilities"]


@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_logged_policy_loss_is_the_same_without_the_entropy_bonus(tiny_folder, tmp_path, loss_type):
    logged = []
    for entropy_coef in (0.0, 0.1):
        trainer = make_ppo_trainer(
            tiny_folder, tmp_path, entropy_coef=entropy_coef, loss_type=loss_type, gradient_accumulation_steps=2
        )
        part, _ = rollout_and_parts(trainer, 2)
        loss = trainer._compute_loss(trainer.model, part)
        (policy,), (value,) = (trainer._metrics["train"][name] for name in ("policy_loss", "value_loss"))
        logged.append(policy)
    assert logged[1] == pytest.approx(logged[0], abs=1e-6)
    bonus = (policy + trainer.args.vf_coef * value) / 2 - loss.item()
    assert bonus > 0.1  # coefficient 0.1 × entropy of an untrained model ÷ 2 parts


def test_without_args_all_settings_are_the_defaults(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # TRL's default is bf16
    trainer = EmpathyPPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        length_reward,
        train_dataset=ROWS,
        processing_class=AutoTokenizer.from_pretrained(tiny_folder, padding_side="left"),
    )
    assert type(trainer.args) is PPOConfig
    assert trainer.args.output_dir == f"{tiny_folder.name}-PPO"
    assert trainer.ref_model is not None  # for the default kl_coef


def test_training_again_keeps_the_optimizer(tiny_folder, tmp_path):
    trainer = make_ppo_trainer(tiny_folder, tmp_path, max_steps=1)
    trainer.train()
    groups = len(trainer.optimizer.param_groups)
    trainer.train()
    assert len(trainer.optimizer.param_groups) == groups


def test_the_critic_learns_alone_first(tiny_folder, tmp_path):
    trainer = make_ppo_trainer(tiny_folder, tmp_path, critic_warmup_steps=2, max_steps=2, weight_decay=0.1)
    before = weights_of(trainer)
    trainer.train()
    moved = {name for name, weight in weights_of(trainer).items() if not torch.equal(weight, before[name])}
    assert moved == {"critic.value_head.weight", "critic.value_head.bias"}
    trainer = make_ppo_trainer(tiny_folder, tmp_path, critic_warmup_steps=2, max_steps=3)
    trainer.train()
    assert not torch.equal(trainer.model.model.norm.weight, before["model.norm.weight"])
    # Adam starts to count when it starts to learn
    ages = {weight: state["step"].item() for weight, state in trainer.optimizer.optimizer.state.items()}
    critic = set(trainer.critic.parameters())
    assert {age for weight, age in ages.items() if weight in critic} == {3.0}
    assert {age for weight, age in ages.items() if weight not in critic} == {1.0}


@pytest.mark.faults
def test_a_policy_in_shards_does_not_move_before_its_turn(tiny_folder, tmp_path):
    """ZeRO lets the optimizer step on flat shards with gradients of 0, one group after the other."""
    trainer = make_ppo_trainer(tiny_folder, tmp_path, critic_warmup_steps=2, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    groups, shards = optimizer.param_groups, [torch.nn.Parameter(torch.ones(3)) for _ in optimizer.param_groups]
    for trainer.state.global_step in range(4):
        for group, shard in zip(groups, shards, strict=True):
            shard.grad = torch.full((3,), float(group["lr"] == 1e-4 or trainer.state.global_step >= 2))
            group["params"], optimizer.param_groups = [shard], [group]
            optimizer.step()
        if trainer.state.global_step == 1:
            assert [torch.equal(shard, torch.ones(3)) for shard in shards] == [True, True, False, False]
    assert [optimizer.state[shard]["step"].item() for shard in shards] == [2, 2, 4, 4]
    assert [group["lr"] for group in groups] == [0.01, 0.01, 1e-4, 1e-4]


def test_a_warm_up_needs_an_optimizer_that_tells_the_critic_from_the_policy(tiny_folder, tmp_path):
    trainer = make_ppo_trainer(tiny_folder, tmp_path, critic_warmup_steps=2)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="critic_warmup_steps: 2, but the trainer does not make the optimizer"):
        trainer.train()


def test_the_critic_has_a_learning_rate_of_its_own(tiny_folder, tmp_path):
    trainer = make_ppo_trainer(tiny_folder, tmp_path, learning_rate=1e-5, critic_learning_rate=1e-3)
    groups = trainer.create_optimizer().param_groups
    rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    critic = {id(weight) for weight in trainer.model.critic.parameters()}
    assert len(rates) == sum(1 for _ in trainer.model.parameters())
    assert {rate for weight, rate in rates.items() if weight in critic} == {1e-3}
    assert {rate for weight, rate in rates.items() if weight not in critic} == {1e-5}


@pytest.mark.parametrize("kind", ["head", "model"])
def test_the_saved_policy_knows_nothing_of_its_critic(tiny_folder, tmp_path, kind, recwarn, caplog):
    trainer = make_ppo_trainer(tiny_folder, tmp_path, critic_kind=kind, max_steps=2, critic_learning_rate=0.01)
    trainer.train()
    assert trainer._shares["log-probabilities"]  # also a backbone reads a prompt once
    trainer.save_model(str(tmp_path / "saved"))
    reloaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    own = {name: weight for name, weight in weights_of(trainer).items() if not name.startswith("critic.")}
    assert_identical(own, dict(reloaded.state_dict()))

    settings = {"critic_kind": kind, "critic_name_or_path": str(tmp_path / "saved")}
    again = make_ppo_trainer(tmp_path / "saved", tmp_path / "again", **settings)
    assert_identical(dict(trainer.model.critic.state_dict()), dict(again.model.critic.state_dict()))
    assert again.critic.value_head.centre == trainer.critic.value_head.centre != 0


def test_an_adapter_is_saved_without_the_critic_and_both_learn(tiny_folder, tmp_path):
    settings = {"kl_coef": 0.1, "save_strategy": "steps", "save_steps": 1}
    settings["peft_config"] = LoraConfig(r=2, target_modules="all-linear")
    trainer = make_ppo_trainer(tiny_folder, tmp_path, max_steps=2, **settings)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "kl" in row]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[-1]["kl"] != 0
    assert trainer.model.critic.value_head.weight.abs().sum() > 0
    saved = tmp_path / "checkpoint-2"
    assert (saved / "adapter_model.safetensors").is_file() and (saved / "critic" / "value_head.safetensors").is_file()
    resumed = make_ppo_trainer(tiny_folder, tmp_path, max_steps=3, **settings)
    resumed.train(resume_from_checkpoint=str(saved))
    assert resumed.state.global_step == 3


@pytest.mark.parametrize("walks", [{"use_vllm": True}, {"use_transformers_continuous_batching": True}, {}], ids=str)
def test_the_critic_is_kept_from_what_walks_over_all_weights_only(tiny_folder, tmp_path, monkeypatch, walks):
    """vLLM is sent the named parameters; `generate` with ZeRO-3 has to put its hooks back into every module."""
    trainer = make_ppo_trainer(tiny_folder, tmp_path)
    seen = []
    monkeypatch.setattr(
        EmpathyGRPOTrainer,
        "_generate_single_turn",
        lambda self, *args: seen.extend(name for name, _ in self.model.named_parameters()),
    )
    for name, value in walks.items():
        monkeypatch.setattr(trainer, name, value)
    trainer._generate_single_turn([[5]], None, {}, 2)
    assert seen and any("critic" in name for name in seen) == (not walks)
    assert any("critic" in name for name, _ in trainer.model.named_parameters())


def test_the_reference_follows_a_policy_with_a_critic(tiny_folder, tmp_path):
    settings = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    trainer = make_ppo_trainer(tiny_folder, tmp_path, kl_coef=0.1, max_steps=1, **settings)
    trainer.train()
    own = {name: weight for name, weight in weights_of(trainer).items() if not name.startswith("critic.")}
    assert_identical(own, dict(trainer.ref_model.state_dict()))


def test_fsdp_loads_the_policy_with_its_critic_in_it(tiny_folder, tmp_path, monkeypatch):
    trainer = make_ppo_trainer(tiny_folder, tmp_path)
    trainer.save_model(str(tmp_path / "checkpoint"))  # FSDP leaves such a folder beside its own file
    seen = []
    monkeypatch.setattr(EmpathyGRPOTrainer, "_load_from_checkpoint", lambda self, *_: seen.extend(self.model._modules))
    monkeypatch.setattr(trainer.critic, "load", lambda folder: pytest.fail("whole weights into sharded ones"))
    trainer.is_fsdp_enabled = True
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))
    assert "critic" in seen


@pytest.mark.faults
def test_an_engine_that_loads_the_weights_itself_gets_the_centre_from_the_critics_folder(tiny_folder, tmp_path):
    """FSDP2 takes no buffer into its checkpoint, and DeepSpeed does not call `_load_from_checkpoint`."""
    trainer = make_ppo_trainer(tiny_folder, tmp_path)
    trainer.critic.value_head.centre = 2.5
    assert not dict(trainer.model.named_buffers()).keys() & {"critic.value_head.centre"}
    trainer.save_model(str(tmp_path / "checkpoint"))
    resumed = make_ppo_trainer(tiny_folder, tmp_path)
    resumed._load_rng_state(str(tmp_path / "checkpoint"))
    assert resumed.critic.value_head.centre == 2.5


def test_the_best_policy_comes_with_the_critic_it_had(tiny_folder, tmp_path, caplog):
    trainer = make_ppo_trainer(
        tiny_folder, tmp_path, max_steps=2, save_strategy="steps", save_steps=1, critic_learning_rate=0.1
    )
    trainer.train()
    assert trainer.critic.value_head.weight.abs().sum() > 0
    first = make_ppo_trainer(tiny_folder, tmp_path / "again", critic_name_or_path=str(tmp_path / "checkpoint-1"))
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    trainer._load_best_model()
    assert_identical(dict(first.critic.state_dict()), dict(trainer.critic.state_dict()))
    assert "critic" not in caplog.text


REFUSED = {
    "gamma": ({"gamma": 1.5}, "gamma: 1.5 should be from 0 to 1"),
    "lam": ({"lam": -0.1}, "lam: -0.1 should be from 0 to 1"),
    "coefficient": ({"kl_coef": -1.0}, "kl_coef: -1.0 should not be below 0"),
    "range": ({"cliprange_value": 0.0}, "cliprange_value: 0.0 should be above 0"),
    "estimator": ({"kl_estimator": "k2"}, r"kl_estimator: 'k2' is not supported by PPO \(choices: k1, k3\)"),
    "kind": ({"critic_kind": "tail"}, r"critic_kind: 'tail' .*choices: head, model"),
    "loss": ({"loss_type": "cispo"}, "loss_type: 'cispo' is not supported by PPO"),
    "level": (
        {"importance_sampling_level": "sequence"},
        "importance_sampling_level: 'sequence' is not supported by PPO",
    ),
    "beta": ({"beta": 0.1}, "beta: 0.1 puts a KL into the loss; .* set kl_coef"),
    "liger": ({"use_liger_kernel": True}, "use_liger_kernel: true does not support token-level advantages"),
}


@pytest.mark.parametrize("settings, message", REFUSED.values(), ids=REFUSED)
def test_impossible_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        quiet_config(tmp_path, PPOConfig, **settings)


def test_the_config_survives_a_copy(tmp_path):
    config = quiet_config(tmp_path, PPOConfig, kl_coef=0.2, num_generations=2)
    changes = {"generation_batch_size": None, "per_device_train_batch_size": 8}
    assert dataclasses.replace(config, **changes).beta == 0.2


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("t5"))


def make_t5_trainer(folder, output_dir, dropout_rate=0.0, **settings):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dropout_rate=dropout_rate)
    kinds = (trainer_class(EmpathyPPOTrainer, model), PPOConfig)
    return make_ppo_trainer(folder, output_dir, model=model, kinds=kinds, **settings)


def test_a_step_of_an_encoder_decoder_moves_policy_and_critic_which_are_saved_apart(t5_folder, tmp_path):
    trainer = make_t5_trainer(t5_folder, tmp_path, critic_kind="model", max_steps=1, kl_coef=0.001)
    before = weights_of(trainer)
    trainer.train()
    moved = {
        name.split(".")[0] for name, weight in weights_of(trainer).items() if not torch.equal(weight, before[name])
    }
    assert moved >= {"critic", "encoder", "decoder"}
    trainer.save_model(str(tmp_path / "saved"))
    _, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["unexpected_keys"]


def test_values_of_an_encoder_decoder_are_those_of_its_decoders_states(t5_folder, tmp_path):
    trainer = make_t5_trainer(t5_folder, tmp_path)
    torch.nn.init.normal_(trainer.model.critic.value_head.weight)
    (part,) = rollout_and_parts(trainer, 1)
    for row in range(2):
        prompt = part["prompt_ids"][row][part["prompt_mask"][row].bool()]
        completion = part["completion_ids"][row][part["completion_mask"][row].bool()]
        with torch.no_grad():
            outputs = trainer.model(input_ids=prompt[None], labels=completion[None], output_hidden_states=True)
            expected = trainer.model.critic(outputs.decoder_hidden_states[-1])[0]
        assert torch.allclose(part["old_values"][row][: len(completion)], expected, atol=1e-5)


@pytest.mark.parametrize("off", [True, False])
def test_without_dropout_the_same_text_has_the_same_probability_and_value(t5_folder, tmp_path, off):
    settings = {"disable_dropout": off, "critic_kind": "model", "num_iterations": 2}
    trainer = make_t5_trainer(t5_folder, tmp_path, dropout_rate=0.3, **settings)
    torch.nn.init.normal_(trainer.critic.value_head.weight)
    (part,) = rollout_and_parts(trainer, 1)
    assert trainer.model.training
    trainer._awaits_values = True
    same = torch.allclose(log_probs_of(trainer, part), part["old_per_token_logps"], atol=1e-6)
    same_values = torch.allclose(trainer._values, part["old_values"], atol=1e-6)
    assert (same, same_values) == (off, off)


def test_settings_without_a_critic_are_refused(tiny_folder, tmp_path):
    with pytest.raises(UserError, match=r"GRPOConfig has no settings for a critic; expected an empathy_trl.PPOConfig"):
        make_ppo_trainer(tiny_folder, tmp_path, kinds=(EmpathyPPOTrainer, GRPOConfig))

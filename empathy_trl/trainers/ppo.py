"""Proximal policy optimisation with a learned critic, on top of GRPO.

TRL removed its PPO trainer in 1.13. `EmpathyPPOTrainer` is `EmpathyGRPOTrainer` with token-level advantages: they come
from a critic and generalised advantage estimation (`critic`), instead of one advantage per completion from its group. It
therefore supports everything that TRL's GRPO trainer supports: vLLM, PEFT, DeepSpeed, FSDP, several rewards, resume.
The objective is that of Schulman et al. 2017 (arXiv 1707.06347), with the KL penalty per token of Ziegler et al. 2019
(arXiv 1909.08593). `PPOConfig` has the settings.

It overrides these methods of `trl.GRPOTrainer` 1.16 and `transformers.Trainer`; each calls `super()`:

| method | what it adds |
|---|---|
| `_calculate_rewards` | keeps the score of every completion |
| `_generate_and_score_completions` | values, token rewards with the KL in them, advantages and returns of the rollout |
| `_get_per_token_logps_and_entropies` | values from the same forward pass |
| `_compute_loss` | the clipped value loss; no KL in the loss |
| `_generate_single_turn` | keeps the critic out of what is sent to vLLM, or cast for continuous batching |
| `create_optimizer` | a separate learning rate for the critic |
| `_save`, `_load_from_checkpoint`, `_load_best_model` | the critic in a separate folder, beside an ordinary policy |
| `_load_rng_state` | the centre of the critic, which no engine's checkpoint has |

Old values, returns and their mask are part of the rollout, so TRL shuffles and splits them with it.
"""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import torch
from transformers import TrainerCallback
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import get_config_model_id

from empathy_trl.errors import UserError
from empathy_trl.models.hub_files import CRITIC_FOLDER, saved_critic
from empathy_trl.trainers.advice import PPO_CAUSES
from empathy_trl.trainers.critic import (
    ValuesBesideLogProbs,
    advantages_and_returns,
    build_critic,
    clipped_value_loss,
    explained_variance,
    moments,
    per_token_kl,
    switch_off_dropout,
    token_rewards,
    whitened,
    without_critic,
)
from empathy_trl.trainers.dynamic_sampling import totals
from empathy_trl.trainers.grpo import EmpathyGRPOConfig, EmpathyGRPOTrainer
from empathy_trl.trainers.shared_prefix.packing import install, unsupported

LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo")  # these clip the ratio of every token
# what a rollout of a model that reads images holds besides its tokens, as TRL's method takes it
IMAGE_INPUTS = (
    *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles"),
    *("image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
)


def _field(default, help: str):
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass
class PPOConfig(EmpathyGRPOConfig):
    """`EmpathyGRPOConfig` with a critic: what TRL's own `PPOConfig` had until 1.12, on top of GRPO's settings.

    `num_iterations` are the PPO epochs over a rollout, `epsilon` clips the policy's ratio. The KL to the reference is part
    of the reward (`kl_coef`), so `beta` stays 0. Dropout is off (`disable_dropout`), as it always was in TRL's PPO trainer.
    `scale_rewards` and `multi_objective_aggregation` belong to GRPO's advantages and change nothing here.

    Raises:
        ValueError: a value out of its range, a loss that is not PPO's, or a setting that belongs to GRPO alone.
    """

    gamma: float = _field(1.0, "Discount of later rewards, in [0, 1].")
    lam: float = _field(0.95, "Lambda of the generalised advantage estimation, in [0, 1].")
    vf_coef: float = _field(0.1, "Weight of the value loss beside the policy loss.")
    cliprange_value: float = _field(0.2, "How far a value may move from the one of the rollout before it is clipped.")
    kl_coef: float = _field(0.05, "Weight of the KL penalty per token to the reference; 0 needs no reference.")
    kl_estimator: Literal["k1", "k3"] = _field(
        "k1", "How the KL is estimated: k1 is log p - log q; k3 is never negative and varies less."
    )
    whiten_advantages: bool = _field(True, "Bring the advantages of a rollout to mean 0 and variance 1.")
    disable_dropout: bool = _field(
        True,
        "Train policy and critic without dropout, that of an adapter included: the ratio to the policy of the rollout, the "
        "KL and the values would otherwise measure its noise.",
    )
    missing_eos_penalty: float | None = _field(None, "Penalty for a completion that does not end by itself.")
    critic_kind: Literal["head", "model"] = _field(
        "head",
        "head: a linear layer on the policy's own hidden states, from the same forward pass; "
        "model: a separate backbone.",
    )
    critic_name_or_path: str | None = _field(
        None,
        "Where the critic starts: a folder with a critic of an earlier run; for kind model also a model with the policy's "
        "tokenizer, such as a reward model of its family. By default a new head, or a copy of the policy.",
    )
    critic_learning_rate: float = _field(1e-4, "Learning rate of the critic's own weights.")
    critic_warmup_steps: int = _field(0, "Optimizer steps at the start in which only the critic learns.")

    def __post_init__(self):
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} should be from 0 to 1")
        for name in ("vf_coef", "kl_coef", "critic_warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} should not be below 0")
        for name in ("cliprange_value", "critic_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} should be above 0")
        for name, choices in (
            ("kl_estimator", ("k1", "k3")),
            ("critic_kind", ("head", "model")),
            ("loss_type", LOSSES),
            ("importance_sampling_level", ("token",)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is not supported by PPO (choices: {', '.join(choices)})"
                )
        if self.beta not in (0, self.kl_coef):
            raise ValueError(
                f"beta: {self.beta} puts a KL into the loss; PPO has it in the reward, set kl_coef instead"
            )
        if self.use_liger_kernel:
            raise ValueError("use_liger_kernel: true does not support token-level advantages; expected false")
        if self.dynamic_sampling:
            raise ValueError(
                "dynamic_sampling: true is for GRPO; PPO's advantages come from the critic, so that completions which all earn "
                "the same still teach; expected false"
            )
        self.beta = self.kl_coef  # so that the parent loads the reference and scores with it
        super().__post_init__()


class EmpathyPPOTrainer(EmpathyGRPOTrainer):
    """`EmpathyGRPOTrainer` with token-level advantages from a learned critic instead of advantages from a prompt's group.

    Args:
        **kwargs: everything `EmpathyGRPOTrainer` takes; `args` is a `PPOConfig`, by default one with all its defaults.

    Logged beside what GRPO logs: `policy_loss` (without the entropy bonus), `value_loss`, `explained_variance` (of the
    returns, by the values at the time of the rollout), `returns/mean`, `returns/std`, `advantages/mean`, `advantages/std`
    (before whitening), `values/mean`, `values/std`, `value_clip_ratio`, and with a reference `kl` (per token) and
    `kl_penalty` (per completion, in units of reward).

    Raises:
        UserError: `args` is not a `PPOConfig`, or the policy cannot have a critic of this kind.
    """

    _kl_setting = "kl_coef"
    _causes = PPO_CAUSES

    def __init__(self, model, reward_funcs=None, args=None, *others, **kwargs):
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = PPOConfig(f"{name.split('/')[-1]}-PPO")
        if not isinstance(args, PPOConfig):
            raise UserError(
                f"args: {type(args).__name__} has no settings for a critic; expected an empathy_trl.PPOConfig, which takes the "
                "same settings as trl.GRPOConfig and more"
            )
        super().__init__(model, reward_funcs, args, *others, **kwargs)
        policy = self._bare(self.model)
        self.critic = build_critic(self.args.critic_kind, self.args.critic_name_or_path, policy, self._tokenizer)
        self.model.critic = self.critic  # what FSDP wraps around the model later does not hide this one
        self._prepare_backbone(self.critic.backbone)
        if self.args.disable_dropout:
            switch_off_dropout(self.model)
        self._critic_hooks = ValuesBesideLogProbs(self.model, policy.get_decoder())
        self._awaits_values, self._values, self._scores = False, None, None
        self._critic_first = CriticFirst(self)
        self.add_callback(self._critic_first)
        if self.args.sync_ref_model:
            self.remove_callback(SyncRefModelCallback)
            self.add_callback(SyncReference(self.ref_model, self.accelerator))

    def _prepare_backbone(self, backbone):
        if backbone is None:
            return
        if self.args.gradient_checkpointing:
            backbone.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        if self._shares["log-probabilities"]:
            if reason := unsupported(backbone):
                self._shares["log-probabilities"] = False
                self._warn_once("shared_prefix: off for log-probabilities: the critic: %s", reason)
            else:
                install(backbone)

    def _readers(self, model):
        backbone = self.critic.backbone
        return super()._readers(model) + ([backbone] if backbone is not None and self._critic_hooks.wanted else [])

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        start = self.accelerator.process_index * len(prompts)
        self._scores = totals(rewards, self.reward_weights)[start : start + len(prompts)]
        return rewards

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        if not self._awaits_values:
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._awaits_values = False  # what is scored next may be the reference, which has no critic
        with patch.object(self._critic_hooks, "wanted", True):
            both, *rest = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        log_probs, self._values = both.unbind(dim=-1)
        return log_probs, *rest

    def _generate_and_score_completions(self, inputs):
        self._critic_hooks.detached = True
        self._awaits_values = scored = self._is_scored_by_parent()
        output = super()._generate_and_score_completions(inputs)
        log_probs = output["old_per_token_logps"] if scored else self._score_rollout(output)
        values, self._values = self._values, None

        mask = output["completion_mask"] * output.get("tool_mask", 1)
        scored = mask * ~self._scores.isnan()[:, None]
        scores = self._final_scores(output)
        values = self._centred(values, scores, scored)
        kl = torch.zeros_like(values)
        if "ref_per_token_logps" in output:
            kl = mask * per_token_kl(log_probs, output["ref_per_token_logps"], self.args.kl_estimator)
        rewards = token_rewards(scores, self.args.kl_coef * kl, scored)
        advantages, returns = advantages_and_returns(rewards, values, scored, self.args.gamma, self.args.lam)
        self._log_rollout(mask, scored, kl, values, returns, advantages)
        if self.args.whiten_advantages:
            advantages = whitened(advantages, scored, self._total)
        self._log_advantages((advantages * scored).sum(1) / scored.sum(1).clamp(min=1))
        return output | {"advantages": advantages, "returns": returns, "old_values": values, "value_mask": scored}

    def _is_scored_by_parent(self) -> bool:
        """Whether the parent computes a rollout's log-probabilities, because a later step needs them in its loss."""
        steps = self.args.steps_per_generation * self.num_iterations
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return corrected or self.args.gradient_accumulation_steps % steps != 0

    @torch.no_grad()
    def _score_rollout(self, output: dict) -> torch.Tensor:
        """Return a rollout's log-probabilities, shape (rows, completion length); `self._values` are set with them."""
        ids, mask = (
            torch.cat([output[f"prompt_{part}"], output[f"completion_{part}"]], dim=1) for part in ("ids", "mask")
        )
        training = self._mode == "train"
        rows = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        images = {name: output[name] for name in IMAGE_INPUTS if name in output}
        self._awaits_values = True
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            return self._get_per_token_logps_and_entropies(
                self.model, ids, mask, output["completion_ids"].shape[1], rows, **images
            )[0]

    def _centred(self, values, scores, scored) -> torch.Tensor:
        """Return a rollout's values; the first rollout sets the centre of a new critic to the mean score."""
        head = self.critic.value_head
        if head.centre:
            return values
        error, _ = moments(scores[:, None] - values, scored, self._total)
        head.centre = error.item()
        return values + error

    def _final_scores(self, output: dict) -> torch.Tensor:
        """Return the score of each completion, shape (rows,): its rewards, minus the penalty if it was cut off."""
        scores = self._scores.nan_to_num(0.0)
        if self.args.missing_eos_penalty is None:
            return scores
        ends = torch.tensor(self.eos_token_ids, device=scores.device)
        # the last token only: with tools every turn before it has an end of its own
        last = output["completion_mask"].sum(dim=1, keepdim=True).sub(1).clamp(min=0)
        ended = torch.isin(output["completion_ids"].gather(1, last)[:, 0], ends)
        return scores - self.args.missing_eos_penalty * ~ended

    def _compute_loss(self, model, inputs):
        warming_up = self.state.global_step < self.args.critic_warmup_steps
        self._awaits_values, self._critic_hooks.detached = True, warming_up
        with patch.object(self, "beta", 0.0):  # the KL is in the reward
            policy_loss = super()._compute_loss(model, inputs)
        values, self._values = self._values, None
        value_loss = self._value_loss(values, inputs)
        mode = self._mode
        parts = self.current_gradient_accumulation_steps if mode == "train" else 1  # both losses are of one part
        losses = {"value_loss": value_loss * parts}
        if not self._entropy_bonus_enabled:  # otherwise the parent logs the policy loss itself, without the bonus
            losses["policy_loss"] = policy_loss * parts
        elif self.loss_type == "dapo":  # of one part, where its other losses are of the whole step
            self._metrics[mode]["policy_loss"][-1] *= parts
        for name, loss in losses.items():
            self._metrics[mode][name].append(self.accelerator.gather(loss.detach()).mean().item())
        # 0 times the loss instead of none, so that distributed training finds a gradient for every weight
        return policy_loss * (0.0 if warming_up else 1.0) + self.args.vf_coef * value_loss

    def _value_loss(self, values: torch.Tensor, inputs: dict) -> torch.Tensor:
        """Return the value loss as a mean over the tokens of an optimizer step, of which this is one part."""
        mask = inputs["value_mask"]
        loss, clipped = clipped_value_loss(values, inputs["old_values"], inputs["returns"], self.args.cliprange_value)
        mode = self._mode
        self._metrics[mode]["value_clip_ratio"].append(moments(clipped.float(), mask, self._total)[0].item())
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if mode == "train":  # it counts the whole rollout
            tokens = tokens * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return (loss * mask).sum() / tokens

    def _total(self, sums: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(sums, reduction="sum")

    def _log_rollout(self, mask, scored, kl, values, returns, advantages):
        metrics = self._metrics[self._mode]
        for name, tensor in (("returns", returns), ("advantages", advantages), ("values", values)):
            mean, variance = moments(tensor, scored, self._total)
            metrics[f"{name}/mean"].append(mean.item())
            metrics[f"{name}/std"].append(variance.sqrt().item())
        explained = explained_variance(values, returns, scored, self._total)
        if explained is not None:
            metrics["explained_variance"].append(explained)
        if self.args.kl_coef:  # otherwise there is no reference to measure it against
            metrics["kl"].append(moments(kl, mask, self._total)[0].item())
            metrics["kl_penalty"].append(self.accelerator.gather(self.args.kl_coef * kl.sum(dim=1)).mean().item())

    def _log_advantages(self, advantages: torch.Tensor):
        """Replace GRPO's advantages in the log by the mean advantage of each completion."""
        gathered = self.accelerator.gather(advantages).tolist()
        logged = self._logs["advantages"]
        for _ in gathered[: len(logged)]:
            logged.pop()
        logged.extend(gathered)

    def _generate_single_turn(self, *args, **kwargs):
        # `generate` does not call the critic; it stays for DeepSpeed's ZeRO-3, which restores its hooks in all modules
        walks_over_weights = self.use_vllm or self.use_transformers_continuous_batching
        with self._without_critic() if walks_over_weights else nullcontext():
            return super()._generate_single_turn(*args, **kwargs)

    def _without_critic(self):
        return without_critic(self.accelerator.unwrap_model(self.model))

    def create_optimizer(self, *args, **kwargs):
        if self.optimizer is not None:  # DeepSpeed's own from its config file, or that of an earlier `train()`
            return super().create_optimizer(*args, **kwargs)
        optimizer = super().create_optimizer(*args, **kwargs)
        critic, groups = set(self.critic.parameters()), len(optimizer.param_groups)
        for group in list(optimizer.param_groups):
            own = [parameter for parameter in group["params"] if parameter in critic]
            if own:
                group["params"] = [parameter for parameter in group["params"] if parameter not in critic]
                optimizer.add_param_group(group | {"params": own, "lr": self.args.critic_learning_rate})
        self._critic_first.hold_policy(optimizer, len(optimizer.param_groups) - groups)
        return optimizer

    def _save(self, output_dir=None, state_dict=None):
        folder = Path(output_dir or self.args.output_dir)
        weights = self.model.state_dict() if state_dict is None else state_dict
        prefix = f"{CRITIC_FOLDER}."
        own = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        policy = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
        with self._without_critic():
            super()._save(output_dir, policy)
        self.critic.save(folder / CRITIC_FOLDER, own)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.is_fsdp_enabled:  # FSDP and DeepSpeed save and load the model with the critic
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        with self._without_critic():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_critic(resume_from_checkpoint)

    def _load_best_model(self):
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_best_model()
        with self._without_critic():
            super()._load_best_model()
        self._load_critic(self.state.best_model_checkpoint)

    def _load_rng_state(self, checkpoint: str | None):
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and (folder := saved_critic(checkpoint)) is not None:
            self.critic.load_centre(folder)

    def _load_critic(self, checkpoint: str):
        if (folder := saved_critic(checkpoint)) is not None:
            self.critic.load(folder)


class CriticFirst(TrainerCallback):
    """Keeps the policy as it is during the critic's warm-up, with every engine.

    The policy's gradients are 0 then, which is not enough: weight decay would shrink the policy, and Adam, whose bias correction
    counts the steps, would make the first real updates several times too large. In such a step, the policy's learning rate is
    therefore 0, and its steps are not counted. FSDP and DeepSpeed, too, call this optimizer: with their shards of the weights as
    parameters, and DeepSpeed with one parameter group after the other.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.critic_groups = 0
        self.rates = []

    def hold_policy(self, optimizer: torch.optim.Optimizer, critic_groups: int):
        """Prepare an optimizer whose last `critic_groups` parameter groups are the critic's."""
        self.critic_groups = critic_groups
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    def on_train_begin(self, args, state, control, **kwargs):
        if not args.critic_warmup_steps:
            return
        if not self.critic_groups:
            raise UserError(
                f"trainer.critic_warmup_steps: {args.critic_warmup_steps}, but the trainer does not make the optimizer, which "
                "therefore cannot leave the policy out; expected 0, or no `optimizer` in the DeepSpeed config and no `optimizers=`"
            )
        for group in self.trainer.optimizer.param_groups[-self.critic_groups :]:  # after a checkpoint has replaced them
            group["is_critic"] = True

    def _held_groups(self, optimizer) -> list[dict]:
        """Return the parameter groups that this step must not change."""
        warming_up = self.trainer.state.global_step < self.trainer.args.critic_warmup_steps
        return [group for group in optimizer.param_groups if warming_up and "is_critic" not in group]

    def _before_step(self, optimizer, *_):
        groups = self._held_groups(optimizer)
        self.rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0

    def _after_step(self, optimizer, *_):
        for group, rate in zip(self._held_groups(optimizer), self.rates, strict=True):
            group["lr"] = rate
            for state in (optimizer.state[weight] for weight in group["params"] if weight in optimizer.state):
                if "step" in state:
                    state["step"] *= 0


class SyncReference(SyncRefModelCallback):
    """`SyncRefModelCallback` for a policy with a critic and a reference without one."""

    def on_step_end(self, args, state, control, **kwargs):
        with without_critic(self.accelerator.unwrap_model(kwargs["model"])):
            super().on_step_end(args, state, control, **kwargs)

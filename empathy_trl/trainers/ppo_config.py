"""The settings of `EmpathyPPOTrainer`: those of GRPO, and what a critic adds."""

import dataclasses
from typing import Literal

from empathy_trl.trainers.grpo import EmpathyGRPOConfig

LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo")  # those that clip the ratio of every token


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
    kl_coef: float = _field(0.05, "Weight of the KL to the reference, which every token pays; 0 needs no reference.")
    kl_estimator: Literal["k1", "k3"] = _field(
        "k1", "How the KL is estimated: k1 is log p - log q; k3 is never negative and varies less."
    )
    whiten_advantages: bool = _field(True, "Bring the advantages of a rollout to mean 0 and variance 1.")
    disable_dropout: bool = _field(
        True,
        "Train policy and critic without dropout, that of an adapter included: the ratio to the policy of the rollout, the "
        "KL and the values would otherwise measure its noise.",
    )
    missing_eos_penalty: float | None = _field(None, "What a completion loses that does not end by itself.")
    critic_kind: Literal["head", "model"] = _field(
        "head",
        "head: a linear layer on the policy's own hidden states, from the same forward pass; "
        "model: a backbone of its own.",
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
                raise ValueError(f"{name}: {getattr(self, name)!r} is none of PPO's (choices: {', '.join(choices)})")
        if self.beta not in (0, self.kl_coef):
            raise ValueError(
                f"beta: {self.beta} puts a KL into the loss; PPO has it in the reward, set kl_coef instead"
            )
        if self.use_liger_kernel:
            raise ValueError("use_liger_kernel: true has no loss for advantages of single tokens; expected false")
        self.beta = self.kl_coef  # so that the parent loads the reference and scores with it
        super().__post_init__()

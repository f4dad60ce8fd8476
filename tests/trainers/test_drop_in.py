"""Where `EmpathyGRPOTrainer` is asked for nothing of its own, it trains as `trl.GRPOTrainer` does, number for number."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from empathy_trl.trainers.grpo import EmpathyGRPOConfig, EmpathyGRPOTrainer
from tests.trainers.settings import ROWS, length_reward, quiet_config, without_times


def vowel_reward(completions, **kwargs):
    """The share of vowels: now and then nothing, and never what `length_reward` says."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter in "aeiou" for letter in text) / len(text) if text else None for text in texts]


SETTINGS = {
    "as it comes": {},
    "with a reference": {"beta": 0.04},
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo", "gradient_accumulation_steps": 1, "per_device_train_batch_size": 8},
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
    "entropy": {
        "entropy_coef": 0.1,
        "top_entropy_quantile": 0.5,
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": 8,
    },
}
OURS = {"zero_spread_share"}


def logs_of(trainer_class, config_class, tiny_folder, output_dir, **settings):
    trainer = trainer_class(
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        [length_reward, vowel_reward],
        quiet_config(
            output_dir,
            config_class,
            **{
                "num_generations": 4,
                "gradient_accumulation_steps": 2,
                "max_completion_length": 6,
                "max_steps": 2,
                "learning_rate": 0.01,
                **settings,
            },
        ),
        ROWS,
        processing_class=AutoTokenizer.from_pretrained(tiny_folder, padding_side="left"),
    )
    trainer.train()
    rows = without_times(trainer.state.log_history)
    assert len(rows) == 2
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

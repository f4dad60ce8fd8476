"""What the trainer tests share: a reward that always varies, and settings that neither print nor save."""

from empathy_trl.trainers.grpo_config import EmpathyGRPOConfig


def length_reward(completions, **kwargs):
    """More letters, more reward: varies within every group."""
    return [float(len(completion[0]["content"])) for completion in completions]


def quiet_config(output_dir, **settings) -> EmpathyGRPOConfig:
    """Return the settings of a small training in float32."""
    return EmpathyGRPOConfig(
        **{
            "output_dir": str(output_dir),
            "per_device_train_batch_size": 4,
            "bf16": False,
            "gradient_checkpointing": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **settings,
        }
    )

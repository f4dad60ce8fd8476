"""What the trainer tests share: a reward that always varies, settings that neither print nor save, and a small trainer."""

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from empathy_trl.trainers.grpo import EmpathyGRPOTrainer
from empathy_trl.trainers.grpo_config import EmpathyGRPOConfig

ROWS = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"number {i}"}] for i in range(8)]})


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


def make_trainer(
    tiny_folder, output_dir, reward=length_reward, weights=None, callbacks=(), eval_dataset=None, **settings
):
    return EmpathyGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_folder),
        processing_class=AutoTokenizer.from_pretrained(tiny_folder, padding_side="left"),
        reward_funcs=reward if isinstance(reward, list) else [reward],
        reward_weights=weights,
        args=quiet_config(
            output_dir,
            **{
                "num_generations": 2,
                "max_completion_length": 6,
                "max_steps": 6,
                "learning_rate": 0.01,
                **settings,
            },
        ),
        train_dataset=ROWS,
        eval_dataset=eval_dataset,
        callbacks=list(callbacks),
    )


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_identical(left, right):
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different

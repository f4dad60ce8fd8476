"""What the trainer tests share: a reward that always varies, settings that neither print nor save, small trainers, kills."""

import os
import signal

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from empathy_trl.trainers.grpo import EmpathyGRPOConfig, EmpathyGRPOTrainer
from empathy_trl.trainers.ppo import EmpathyPPOTrainer, PPOConfig

ROWS = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"number {i}"}] for i in range(8)]})


def length_reward(completions, **kwargs):
    """More letters, more reward: varies within every group."""
    return [float(len(completion[0]["content"])) for completion in completions]


def quiet_config(output_dir, config_class=EmpathyGRPOConfig, **settings):
    """Return the settings of a small training in float32."""
    return config_class(
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
    tiny_folder,
    output_dir,
    reward=length_reward,
    weights=None,
    callbacks=(),
    eval_dataset=None,
    train_dataset=ROWS,
    peft_config=None,
    model=None,
    kinds=(EmpathyGRPOTrainer, EmpathyGRPOConfig),
    **settings,
):
    trainer_class, config_class = kinds
    return trainer_class(
        model=AutoModelForCausalLM.from_pretrained(tiny_folder) if model is None else model,
        processing_class=AutoTokenizer.from_pretrained(tiny_folder, padding_side="left"),
        reward_funcs=reward if isinstance(reward, list) else [reward],
        reward_weights=weights,
        args=quiet_config(
            output_dir,
            config_class,
            **{"num_generations": 2, "max_completion_length": 6, "max_steps": 6, "learning_rate": 0.01, **settings},
        ),
        train_dataset=train_dataset,
        peft_config=peft_config,
        eval_dataset=eval_dataset,
        callbacks=list(callbacks),
    )


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_identical(left, right):
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def make_ppo_trainer(tiny_folder, output_dir, **settings):
    """Return `make_trainer`'s trainer with a critic."""
    return make_trainer(tiny_folder, output_dir, **{"kinds": (EmpathyPPOTrainer, PPOConfig), **settings})


class KillAt(TrainerCallback):
    """Ends this process as the out-of-memory killer would, right after a step and its checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill(make, step: int):
    """Train in a process of its own until a step, at which it is killed; `make` takes the callbacks and makes a trainer."""
    child = os.fork()
    if child == 0:
        make([KillAt(step)]).train()
        os._exit(1)  # not reached: the callback kills first
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def without_times(history: list[dict]) -> list[dict]:
    """Return logged rows without what no two runs have in common."""
    timings = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")
    return [{name: value for name, value in row.items() if name not in timings} for row in history[:-1]]

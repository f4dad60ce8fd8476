"""Trainers: GRPO and PPO on top of TRL, and parts for transformers' trainers for classifiers and encoder-decoders.

The names of `__all__` are imported when they are first used, so that `import empathy_trl.trainers` does not import torch.

The docstring of each module lists the methods that its trainer overrides. For the following, TRL and transformers have no
argument, hook or method, so these attributes are replaced during one call (`unittest.mock.patch`):

| module | replaced | why |
|---|---|---|
| `dynamic_sampling` | `_generate`, `_calculate_rewards` of the trainer | TRL generates, scores and computes advantages in one method; groups are replaced before the advantages |
| `exact_resume` | `reward_funcs` of the trainer | TRL calls all rewards in one method; a stop must wait for the other processes |
| `grpo` | `trl.trainer.utils._use_triton` | decides whether prompts go through the vocabulary projection; TRL decides by device |
| `grpo` | `TOKEN_CHUNK_SIZE` in `trl.kernels.chunked_logprob`, `_CHUNKED_LOGPROB_CHUNK_SIZE` in `trl.trainer.utils` | how many tokens are projected to how many words of the vocabulary at a time; too many for a CPU |
| `ppo` | `beta` of the trainer | TRL adds the KL to the loss of every trainer that has a reference model |
| `shared_prefix.mixin` | `shuffle_sequence_dict` in `trl.trainer.grpo_trainer` | TRL shuffles rows in the middle of `_prepare_inputs` |
| `shared_prefix.mixin`, `encoder_decoder` | `generate` of the model | TRL passes a fixed set of arguments to it |
| `models.load` | `generation_config` of the model | `generate` reads the defaults of omitted arguments from it |
| `models.load` | `_hf_deepspeed_config_weak_ref` in `transformers.integrations.deepspeed`, `FSDP_CPU_RAM_EFFICIENT_LOADING` | `from_pretrained` reads these globals and would load a reward model, or one that is to be merged, in shards |

`critic.without_critic` removes the critic from the policy's modules while all weights are read (saving, vLLM). On a CPU,
`grpo.OnCpuMixin` makes peft's LoRA layers instances of `models.adapters.FusedLora`.
`tests/trainers/test_seams.py` pins the source of the functions that read these attributes.
"""

import importlib

_EXPORTS = {
    "EmpathyGRPOConfig": "grpo",
    "EmpathyGRPOTrainer": "grpo",
    "EmpathyPPOTrainer": "ppo",
    "LabelConfig": "classify",
    "NonFiniteLoss": "exact_resume",
    "PPOConfig": "ppo",
    "RegressConfig": "classify",
    "Seq2SeqConfig": "encoder_decoder",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)

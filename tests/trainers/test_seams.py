"""The parent methods that our trainers override, or rely on, pinned by a hash of their source.

A failure here after an upgrade means: read what changed in that method, check that our override still does what its
docstring says (`tests/trainers/test_grpo.py` tests the behaviour), then update the hash.
"""

import ast
import hashlib
import inspect
from pathlib import Path

import pytest
from peft.tuners import lora
from transformers import Cache, DataCollatorForSeq2Seq, DynamicLayer, Trainer, masking_utils
from transformers.distributed import fsdp
from transformers.generation import GenerationMixin
from transformers.integrations import deepspeed, sdpa_attention
from trl import GRPOTrainer, SFTTrainer
from trl.trainer import utils
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import RepeatSampler

from empathy_trl import trainers

PINNED = {
    (GRPOTrainer, "_get_train_sampler"): "36497afb4d31",
    (GRPOTrainer, "_generate_and_score_completions"): "1fa48922792d",
    (GRPOTrainer, "_calculate_rewards"): "736ae29b0838",
    (GRPOTrainer, "_get_per_token_logps_and_entropies"): "ea73c3909275",
    (utils, "add_fused_lm_head"): "422d009f04b6",
    (utils, "shuffle_sequence_dict"): "bab038755e57",
    (utils, "selective_log_softmax_and_entropy"): "69b4d4c0971d",
    (DataCollatorForSeq2Seq, "__call__"): "2837c183bfdd",
    (GRPOTrainer, "_tokenize_prompts"): "d2d27f7c9bfd",
    (GRPOTrainer, "_generate_single_turn"): "e0f02e4fc094",
    (GenerationMixin, "_prepare_generation_config"): "e31e7ac9816e",
    (deepspeed, "is_deepspeed_zero3_enabled"): "3e3f9ededb3d",
    (fsdp, "is_fsdp_enabled"): "d866585226f3",
    (GenerationMixin, "_sample"): "9f5d2e3906df",
    (GenerationMixin, "_extract_generation_mode_kwargs"): "85fc21b2a2cd",
    (Cache, "update"): "ddd4599eb8ee",
    (DynamicLayer, "lazy_initialization"): "900e770ea0cd",
    (DynamicLayer, "update"): "15d634e7095a",
    (masking_utils, "_preprocess_mask_arguments"): "df23eb733c6e",
    (sdpa_attention, "sdpa_attention_forward"): "2519bd4da7bc",
    (GRPOTrainer, "_prepare_inputs"): "f824e7fb0714",
    (GRPOTrainer, "training_step"): "9e18632f7dd8",
    (lora.Linear, "forward"): "ec0a80f5c5ce",
    (GRPOTrainer, "_compute_loss"): "80295546bbdb",
    (SFTTrainer, "training_step"): "bba41f264647",
    (Trainer, "training_step"): "a95f8c94253a",
    (Trainer, "create_optimizer"): "daff86cde6cc",
    (Trainer, "_save"): "bf720120f407",
    (Trainer, "_load_from_checkpoint"): "4711d0506786",
    (Trainer, "_load_best_model"): "0e183d55a9db",
    (SyncRefModelCallback, "on_step_end"): "5addb1299b67",
    (GRPOTrainer, "_save_checkpoint"): "ec91bde12364",
    (Trainer, "_init_training_state"): "8fbd17ebb7d3",
    (Trainer, "_issue_warnings_after_load"): "7ccdd73aac16",
    (Trainer, "log"): "73b8e3acd21a",
    (Trainer, "_save_checkpoint"): "a9111e30faa9",
    (Trainer, "_maybe_log_save_evaluate"): "af101534f0f7",
    (Trainer, "_run_epoch"): "ebe374933064",
    (Trainer, "compute_loss"): "784a390428b9",
    (Trainer, "_get_num_items_in_batch"): "cd07d211c9ed",
    (Trainer, "_finalize_training"): "8fdcb7005e2b",
    (Trainer, "_clip_grad_norm"): "ebfa9dc91d30",
    (Trainer, "_save_rng_state"): "27a97d106124",
    (Trainer, "_load_rng_state"): "d5ebdfc0a088",
    (RepeatSampler, "__init__"): "7898b11a3b9e",
    (RepeatSampler, "__iter__"): "d80412d80424",
}


def source_hash(owner, name):
    return hashlib.sha256(inspect.getsource(inspect.unwrap(getattr(owner, name))).encode()).hexdigest()[:12]


@pytest.mark.parametrize("owner, name", PINNED, ids=lambda value: getattr(value, "__name__", value))
def test_parent_is_as_it_was_when_the_override_was_written(owner, name):
    assert source_hash(owner, name) == PINNED[owner, name], f"{owner.__name__}.{name} has changed"


def test_what_is_replaced_for_a_call_is_in_the_table():
    """A new `patch.object` on somebody else's attribute needs a reason in the docstring of `empathy_trl.trainers`."""
    package = Path(trainers.__file__).parents[1]
    replaced = set()
    for file in sorted([*package.glob("trainers/**/*.py"), *package.glob("models/*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "patch.object":
                replaced.add((ast.unparse(node.args[0]), node.args[1].value))
    replaced.remove(("self._critic_hooks", "wanted"))  # our own
    assert replaced
    missing = [
        name
        for _, name in sorted(replaced)
        if f"`{name}`" not in trainers.__doc__ and f".{name}`" not in trainers.__doc__
    ]
    assert not missing

"""The shapes that the benchmarks run, and two trainers that differ in nothing but their class.

A shape is named after the recipe whose prompts it resembles. Models are Qwen2 with random weights, and the data are
random words. Completions run to their full length, because an untrained model almost never ends one by itself. The
plain trainer therefore has no padding that ours could save. `smollm2` is the exception: a pretrained model with LoRA,
which is not allowed to end a completion early.
"""

import dataclasses

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)
from trl import GRPOConfig, GRPOTrainer

from empathy_trl.models.tiny import build_tokenizer
from empathy_trl.trainers.grpo import EmpathyGRPOTrainer

WORDS = [first + second for first in "bcdfgklmnprstvz" for second in "aeiou"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """How long prompts and completions are, how many there are, and how big the model is.

    Attributes:
        prompt, completion: tokens of each.
        group: completions per prompt.
        groups: prompts per optimizer step.
        hidden, layers, heads, kv_heads, inner, vocab: of the Qwen2 model.
        model: Hub id or folder of a pretrained model that takes the place of the Qwen2 model.
        lora: rank of the adapter that is trained in all linear layers; 0 trains all weights.
        dtype: of the weights without the adapter's, which are in float32.
    """

    prompt: int
    completion: int
    group: int
    groups: int
    hidden: int = 512
    layers: int = 12
    heads: int = 8
    kv_heads: int = 4
    inner: int = 2048
    vocab: int = 32000
    model: str | None = None
    lora: int = 0
    dtype: str = "float32"


SHAPES = {
    "ed4_tiny": Shape(90, 20, 8, 8, hidden=256, layers=4, heads=4, kv_heads=4, inner=768, vocab=4096),
    "ed4": Shape(150, 150, 8, 2),
    "wassa": Shape(330, 120, 8, 2),
    "empath": Shape(700, 150, 8, 1),
    "smollm2": Shape(100, 40, 8, 4, model="HuggingFaceTB/SmolLM2-135M-Instruct", lora=16),
}
RANDOM = [name for name, shape in SHAPES.items() if not shape.model]  # those whose models have random weights


def make_model(shape: Shape, seed: int = 0) -> Qwen2ForCausalLM:
    """Return a Qwen2 model of the shape's size with random weights, in float32."""
    set_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=shape.vocab,
            hidden_size=shape.hidden,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows every word of `WORDS` as one token."""
    return build_tokenizer([" ".join(WORDS)], 1024, max_length=2048)


def make_prompts(shape: Shape, tokenizer: PreTrainedTokenizerFast, count: int, seed: int = 0) -> Dataset:
    """Return `count` different chat prompts of `shape.prompt` tokens each, the chat template included.

    With a pretrained model's tokenizer, the last word may not fit, and a prompt be a few tokens shorter.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        words = [WORDS[i] for i in torch.randint(len(WORDS), (shape.prompt,), generator=generator)]
        rows.append(chat(words))
        while excess := max(0, tokens_of(tokenizer, rows[-1]) - shape.prompt):
            words = words[: -max(1, excess // 3)]  # no word has more tokens
            rows[-1] = chat(words)
    return Dataset.from_dict({"prompt": rows})


def chat(words: list[str]) -> list[dict]:
    return [{"role": "user", "content": " ".join(words)}]


def tokens_of(tokenizer, prompt: list[dict]) -> int:
    """Return how many tokens a prompt has, the chat template included."""
    return len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])


def token_reward(completion_ids, **columns) -> list[float]:
    """Return a cheap reward in [0, 1] that differs within every group: the share of even tokens."""
    return [sum(token % 2 == 0 for token in ids) / max(1, len(ids)) for ids in completion_ids]


def make_trainer(shape: Shape, ours: bool, folder: str, **settings) -> GRPOTrainer:
    """Return `EmpathyGRPOTrainer` or `trl.GRPOTrainer` with the same model, data, seed and settings."""
    if shape.model:
        tokenizer, source = AutoTokenizer.from_pretrained(shape.model), shape.model
        settings.setdefault("generation_kwargs", {"min_new_tokens": shape.completion})
    else:
        tokenizer, source = make_tokenizer(), folder
        # with a KL penalty TRL loads the reference model from where the model was
        make_model(shape).save_pretrained(folder)
    config = GRPOConfig(
        **{
            "output_dir": folder,
            "per_device_train_batch_size": shape.group * shape.groups,
            "num_generations": shape.group,
            "max_completion_length": shape.completion,
            "learning_rate": 1e-5,
            "beta": 0.01,
            "max_steps": 1000,
            "bf16": False,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **settings,
        }
    )
    set_seed(0)  # of the adapter
    return (EmpathyGRPOTrainer if ours else GRPOTrainer)(
        model=AutoModelForCausalLM.from_pretrained(source, dtype=shape.dtype),
        processing_class=tokenizer,
        reward_funcs=[token_reward],
        args=config,
        train_dataset=make_prompts(shape, tokenizer, 64),
        peft_config=LoraConfig(
            r=shape.lora, lora_alpha=2 * shape.lora, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        if shape.lora
        else None,
    )

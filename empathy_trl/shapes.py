"""How large the model of a stage is, without making or downloading it: for `--check`."""

import copy
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.hub_ids import join_revision
from empathy_trl.inputs import label_targets, scratch_tokenizer
from empathy_trl.recipe.layers import LABEL_TASKS, stage_of
from empathy_trl.templates import set_template

# Shapes from the models' config.json on the Hub, so that a recipe can be judged before the first download.
PUBLISHED = {
    "google/gemma-2-2b-it": (
        "gemma2",
        {
            "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        },
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": (
        "qwen2",
        {
            "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
        },
    ),
    "Qwen/Qwen2.5-3B-Instruct": (
        "qwen2",
        {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True,
        },
    ),
    "meta-llama/Llama-2-7b-chat-hf": (
        "llama",
        {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32,
        },
    ),
    "meta-llama/Llama-3.1-8B-Instruct": (
        "llama",
        {
            "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8,
        },
    ),
    "roberta-base": (
        "roberta",
        {
            "vocab_size": 50265, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "max_position_embeddings": 514, "type_vocab_size": 1,
        },
    ),
}  # fmt: skip
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def model_shape(stage, rows, earlier: dict, downloads: set[str]) -> dict | None:
    """Return what is known of a stage's model, or None where only the Hub knows.

    Args:
        stage: of the recipe.
        rows: split -> (rows, report); empty where the data is not at hand.
        earlier: stage name -> what this function returned for it.
        downloads: gets a line for what has to be downloaded.

    Returns `{"config", "tokenizer" (or None), "dtype", "unshared" (why prompts cannot be shared, or None), "total",
    "trainable"}`, the last two being numbers of parameters.
    """
    if (source := stage_of(stage.model.name_or_path)) is not None:
        known = earlier[source]
        return known and _counted(known["config"], known["tokenizer"], known["dtype"], stage)
    if stage.model.from_scratch is not None:
        from empathy_trl.encoders import encoder_config
        from empathy_trl.scratch import model_config

        if not rows:
            return None
        tokenizer = scratch_tokenizer(stage)
        if stage.task in LABEL_TASKS:
            config = encoder_config(stage.model.from_scratch, tokenizer, label_targets(stage))
        else:
            config = model_config(stage.model.from_scratch, tokenizer)
            set_template(tokenizer, stage.model.chat_template, "model.from_scratch")
        return _counted(config, tokenizer, "float32", stage)
    return _pretrained(stage, downloads)


def _pretrained(stage, downloads: set[str]) -> dict | None:
    from transformers import AutoConfig, AutoTokenizer

    from empathy_trl.hub import NO_CODE

    model, name = stage.model, stage.model.name_or_path
    try:
        config = AutoConfig.from_pretrained(name, revision=model.revision, local_files_only=True, **NO_CODE)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=model.revision, local_files_only=True, **NO_CODE)
    except (OSError, ValueError) as error:  # ValueError: files that are there, and are no model's
        if Path(name).expanduser().is_dir():
            raise UserError(f"model.name_or_path: {name} cannot be read: {error}") from error
        downloads.add(f"model {join_revision(name, model.revision)}")
        if name not in PUBLISHED:
            return None
        kind, fields = PUBLISHED[name]
        config = AutoConfig.for_model(kind, **fields)
        return _counted(config, None, "float32" if stage.task in LABEL_TASKS else "bfloat16", stage)
    if stage.task not in LABEL_TASKS:
        set_template(tokenizer, model.chat_template, name)
    return _counted(config, tokenizer, str(config.dtype).removeprefix("torch."), stage)


def _counted(config, tokenizer, dtype: str, stage) -> dict:
    """Count parameters on the meta device, with the recipe's adapter, and see whether the model can share prompts."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    from empathy_trl.models import generator_class, lora_config
    from empathy_trl.shared_prefix.attention import unsupported

    if stage.task in LABEL_TASKS:
        auto, kind = AutoModelForSequenceClassification, "SEQ_CLS"
        config = copy.deepcopy(config)
        label_targets(stage).write(config)
    else:
        auto, kind = generator_class(config)
    with torch.device("meta"):
        network = auto.from_config(config)
        if stage.model.attn_implementation:
            network.config._attn_implementation = stage.model.attn_implementation
        unshared = None if stage.task in LABEL_TASKS else unsupported(network)
        if stage.model.lora is not None:
            network = get_peft_model(network, lora_config(stage.model.lora, kind))
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    total, trainable = sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
    counts = {"total": total, "trainable": trainable}
    return {"config": config, "tokenizer": tokenizer, "dtype": dtype, "unshared": unshared} | counts


def decoder_layers(config) -> int:
    """Return the layers of an encoder-decoder's decoder, which T5 and BART call by different names."""
    return getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", config.num_hidden_layers)

"""What a recipe will do, without doing it: the page that `run.py --check` prints.

Nothing is downloaded and no weights are made: parameters are counted on PyTorch's meta device. What only the Hub knows
is taken from the local cache, or for the models of our own recipes from `PUBLISHED`, or reported as unknown.

How large the model of a stage is, without making or downloading it: for `--check`.
"""

import copy
import math
import os
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.models.hub_files import join_revision
from empathy_trl.models.load import set_template
from empathy_trl.recipe.layers import LABEL_TASKS, stage_of
from empathy_trl.recipe.stage_inputs import (
    classifiers_of,
    is_pairwise,
    label_targets,
    local_rows,
    scratch_tokenizer,
    stage_rows,
)
from empathy_trl.tasks import missing_extras, trainer_config, trainer_options


def describe(recipe, folder: Path) -> str:
    """Return the plan of a recipe: per stage model, data, rewards, batch, memory; then downloads, uploads, gaps.

    Args:
        recipe: a checked `Recipe`.
        folder: where its run would go.

    Raises:
        UserError: what would stop the run and can be seen now, such as a data file with bad rows.
    """
    lines = [f"recipe {recipe.name} ({recipe.path}), seed {recipe.seed}, output {folder}"]
    models, downloads, needed = {}, set(), 0.0
    for name, stage in recipe.stages.items():
        rows = local_rows(stage)
        models[name] = model_shape(stage, rows, models, downloads)
        # in float32, because half precision is refused where there is no GPU, and that is no fault of the recipe
        trainer_config(stage, folder / name, bf16=False, fp16=False)
        train = stage_rows(stage, "train") if rows else None
        options, prompt = trainer_options(stage), _prompt_tokens(stage, train, models[name])
        options["examples"] = None if train is None else _examples(stage, train)
        options["rows_per_prompt"] = _rows_per_prompt(name, options, models[name])
        parts = memory(stage, options, models[name], prompt or 512) if models[name] else {}
        needed = max(needed, sum(parts.values()))
        lines += ["", f"stage {name}: {stage.task}"]
        lines += [
            f"  {key:10} {value}" for key, value in _stage_lines(stage, rows, models[name], options, prompt, parts)
        ]
    needs = sorted({line for stage in recipe.stages.values() for line in missing_extras(stage)})
    pushes = [f"{name} -> {_push(stage.hub)}" for name, stage in recipe.stages.items() if stage.hub]
    downloads |= _data_downloads(recipe) | _reward_downloads(recipe) | _classifier_downloads(recipe)
    lines += ["", f"downloads: {', '.join(sorted(downloads)) or 'nothing'}"]
    lines += [f"pushes:    {', '.join(pushes) or 'nothing'}", f"missing:   {', '.join(needs) or 'nothing'}"]
    lines += [f"machine:   {_machine()}"]
    return "\n".join([*lines, "", _verdict(needs, needed)])


def _push(hub) -> str:
    parts = ["private"] * hub.private + ["adapter merged"] * hub.merge_adapter
    parts += ["every checkpoint"] * (hub.push == "every_save")
    return hub.repo_id + (f" ({', '.join(parts)})" if parts else "")


def _verdict(needs: list[str], needed: float) -> str:
    """Return the last line: a sound recipe may still ask for more than this machine has."""
    lacks = [f"{line.split()[0]} is not installed" for line in needs]
    if needed > _memory_here():
        lacks.append(f"about {needed / 1e9:.0f} GB of memory are needed, {_memory_here() / 1e9:.0f} GB are there")
    return "The recipe is sound." + (f" It cannot run on this machine: {'; '.join(lacks)}." if lacks else "")


def _machine() -> str:
    """Return what this machine has, to hold the memory estimates against."""
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{gpu.name} with {gpu.total_memory / 1e9:.0f} GB" for gpu in gpus)
    return f"{os.cpu_count()} CPU cores with {_memory_here() / 1e9:.0f} GB, no GPU"


def _memory_here() -> float:
    """Return the bytes of the first GPU, or of the machine where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _data_downloads(recipe) -> set[str]:
    from empathy_trl.io import on_hub

    return {f"data {stage.data.path}" for stage in recipe.stages.values() if on_hub(stage.data.path, needs_owner=True)}


def _reward_downloads(recipe) -> set[str]:
    """Return the models that rewards ask and that are neither a stage's nor in a folder."""
    rewards = [reward for stage in recipe.stages.values() for reward in stage.rewards.values()]
    named = {reward.model for reward in rewards if reward.loads_model} - {None}
    return {f"reward model {name}" for name in _not_here(named)}


def _classifier_downloads(recipe) -> set[str]:
    """Return the classifiers that judge replies and that are neither a stage's nor in a folder."""
    named = {model for stage in recipe.stages.values() for model in classifiers_of(stage).values()}
    encoders = {stage.evaluation.bertscore for stage in recipe.stages.values()} - {None}
    return {f"classifier {name}" for name in _not_here(named)} | {f"BERTScore's {name}" for name in _not_here(encoders)}


def _not_here(models: set[str]) -> set[str]:
    return {name for name in models if stage_of(name) is None and not Path(name).expanduser().is_dir()}


def _examples(stage, train) -> int:
    """Return how many examples a stage learns from: rows as built, which may be fewer than were read, or pairs of them."""
    from empathy_trl.models.label_schema import pairs_of

    return len(pairs_of(train["context"], train["labels"])) if is_pairwise(stage) else len(train)


def _stage_lines(stage, rows, shape, options, prompt: float | None, parts: dict):
    """Yield (key, text) for every line about one stage."""
    yield "model", _model_line(stage.model)
    yield "data", f"{stage.data.name} from {stage.data.path}: " + _data_line(rows)
    if stage.rewards:
        yield "rewards", ", ".join(f"{name} × {_weight(reward.weight)}" for name, reward in stage.rewards.items())
    if "critic_kind" in options:
        yield "critic", _critic_line(options)
    yield "batch", _batch_line(options)
    yield "tokens", _token_line(stage, options, prompt)
    if shape is None:
        yield "parameters", "unknown until the model is downloaded"
        return
    total, trainable = shape["total"], shape["trainable"]
    yield "parameters", f"{trainable:,} of {total:,} trained ({trainable / total:.2%})"
    yield "memory", _memory_line(options, parts)


def _model_line(model) -> str:
    if model.from_scratch is None:
        name = join_revision(model.name_or_path, model.revision)
    else:
        name = "from scratch: {architecture}, hidden size {hidden_size}, {layers} layers".format(
            **model.from_scratch.model_dump()
        )
    lora = f", LoRA rank {model.lora.r}" if model.lora else ""
    return name + (", 4-bit" if model.load_in_4bit else "") + lora + f", {model.dtype}"


def _data_line(rows) -> str:
    return "; ".join(f"{split} {report}" for split, (_, report) in rows.items()) or "known after the download"


def _weight(weight) -> str:
    return (
        f"{weight:g}" if isinstance(weight, (int, float)) else f"{weight.start:g}→{weight.end:g} by {weight.until:.0%}"
    )


def _critic_line(options) -> str:
    kinds = {"head": "a head on the policy's own hidden states", "model": "a backbone of its own"}
    start = f" from {options['critic_name_or_path']}" if options["critic_name_or_path"] else ""
    alone = f", alone for {options['critic_warmup_steps']} steps" if options["critic_warmup_steps"] else ""
    return f"{kinds[options['critic_kind']]}{start}, learning rate {options['critic_learning_rate']:g}{alone}"


def _steps(options) -> int | None:
    """Return the number of optimizer steps, or None where the size of the data is not known yet."""
    if options["max_steps"] > 0:
        return options["max_steps"]
    if options["examples"] is None:
        return None
    per_step = options["sequences"] / options.get("num_generations", 1)
    return max(1, round(options["examples"] * options["num_train_epochs"] / per_step))


def _batch_line(options) -> str:
    steps = _steps(options)
    unit = f"completions ({options['num_generations']} per prompt)" if "num_generations" in options else "examples"
    return (
        f"{options['sequences']} {unit} per optimizer step = {options['per_device_train_batch_size']} per device × "
        f"{options['gradient_accumulation_steps']} accumulated × {options['processes']} processes; "
        + (f"{steps} steps" if steps else f"{options['num_train_epochs']:g} epochs")
    )


def _token_line(stage, options, prompt: float | None) -> str:
    if stage.task in LABEL_TASKS:
        text = f"{min(prompt, options['max_length']):.0f}" if prompt else f"up to {options['max_length']}"
        both = "2 × " * is_pairwise(stage)
        return (
            f"{options['sequences']} × {both}{text} tokens per step; longer texts than {options['max_length']} are cut"
        )
    new = options.get("max_completion_length")
    known = f"{prompt:.0f} prompt" if prompt else "prompt"
    if new:
        rows = options["rows_per_prompt"]
        known += f" / {rows}" if rows > 1 else ""
        upper = f" = up to {options['sequences'] * (prompt / rows + new):,.0f}" if prompt else ""
        shared = f", each prompt read once for {rows} completions" if rows > 1 else ""
        return f"{options['sequences']} × ({known} + at most {new} new){upper} tokens per step{shared}"
    return f"{options['sequences']} × ({known} + completion) tokens per step"


def _rows_per_prompt(name: str, options, shape) -> int:
    """Return how many rows of a batch share one copy of their prompt."""
    from empathy_trl.trainers.shared_prefix.attention import COMPILED, decide

    against = COMPILED if options.get("torch_compile") else shape and shape["unshared"]
    if not decide(options.get("shared_prefix", False), against, f"stages.{name}.trainer.shared_prefix"):
        return 1
    return math.gcd(options["num_generations"], options["per_device_train_batch_size"])


def _prompt_tokens(stage, train, shape) -> float | None:
    """Return the mean length of a prompt or text in tokens, by the model's own tokenizer where it is at hand."""
    if train is None or shape is None or shape["tokenizer"] is None:
        return None
    data, tokenizer = train[:200], shape["tokenizer"]
    if stage.task in LABEL_TASKS:
        encoded = tokenizer(data["text"], *([data["pair"]] if "pair" in data else []))
    else:
        encoded = tokenizer.apply_chat_template(data["prompt"], add_generation_prompt=True, return_dict=True)
    return sum(map(len, encoded["input_ids"])) / len(encoded["input_ids"])


def _memory_line(options, parts: dict) -> str:
    text = f"about {sum(parts.values()) / 1e9:.1f} GB per process: " + ", ".join(
        f"{name} {size / 1e9:.2f}" for name, size in parts.items()
    )
    share = options.get("vllm_gpu_memory_utilization")
    return text + (f"; vLLM takes {share:.0%} of the GPU on top" if options.get("use_vllm") else "")


def memory(stage, options, shape, prompt: float) -> dict[str, float]:
    """Estimate the training memory of one process in bytes, by part; sharding (FSDP, ZeRO) is not taken into account.

    Args:
        prompt: tokens of a prompt; the completion's limit comes on top. Encoders have their longest text instead.

    Weights and a reference copy in the dtype of the model, 4-bit weights as half a byte; gradients like the trained
    weights; two AdamW moments in float32. Activations per layer after Korthikanti et al. 2022 (34 bytes per token and
    hidden unit in 16 bit), or with gradient checkpointing one layer of those and each layer's input. Logits are never
    held for the whole vocabulary by TRL's fused head; those of an encoder-decoder are, in float32, with their gradient.
    """
    config, model = shape["config"], stage.model
    size = 0.5 if model.load_in_4bit else BYTES.get(model.dtype, 2 if shape["dtype"] == "bfloat16" else 4)
    trained = 4 if model.lora or model.from_scratch else size
    width = 1 if options.get("bf16") or options.get("fp16") else 2
    rows, new = options["per_device_train_batch_size"], options.get("max_completion_length") or 64
    if stage.task in LABEL_TASKS:
        stacks = [(options["max_length"] * (1 + is_pairwise(stage)), config.num_hidden_layers)]
    elif config.is_encoder_decoder:
        stacks = [(prompt, config.num_hidden_layers), (new, decoder_layers(config))]
    else:
        stacks = [(prompt / options.get("rows_per_prompt", 1) + new, config.num_hidden_layers)]
    unit = width * rows * config.hidden_size
    layers = [34 * unit * tokens for tokens, number in stacks for _ in range(number)]
    inputs = sum(2 * unit * tokens * number for tokens, number in stacks)
    parts = {
        "weights": size * shape["total"],
        "gradients": trained * shape["trainable"],
        "optimizer": 8 * shape["trainable"],
        "activations": max(layers) + inputs if options["gradient_checkpointing"] else sum(layers),
    }
    if config.is_encoder_decoder and stage.task not in LABEL_TASKS:
        parts["logits"] = 8 * rows * new * config.vocab_size
    if (options.get("beta") or options.get("kl_coef")) and not model.lora:
        parts["reference"] = size * shape["total"]
    if options.get("critic_kind") == "model":  # trained in full, in float32
        parts["critic"] = (4 + 4 + 8) * shape["total"]
    return parts


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
        from empathy_trl.models.classifier import encoder_config
        from empathy_trl.models.tiny import model_config

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

    from empathy_trl.models.hub_files import NO_CODE

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

    from empathy_trl.models.load import generator_class, lora_config
    from empathy_trl.trainers.shared_prefix.attention import unsupported

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

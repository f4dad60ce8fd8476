"""Language models: loading one, building one for a recipe, and what training and generation need to know about it.

`load_model` loads a full model or a LoRA adapter, from a folder or the Hub. An adapter is put on the base model that it
names and is not merged, so that training can continue. `load_or_build` does what the section `model:` of a recipe says,
which may be a model from scratch (`tiny`). `hub_files` finds the files and explains what is wrong with them. The chat template is
set by `templates`.
"""

import dataclasses
import hashlib
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed

from empathy_trl.errors import UserError, show
from empathy_trl.io import user_name
from empathy_trl.models.hub_files import (
    ADAPTER_FILE,
    NO_CODE,
    adapter_base,
    check_exists,
    check_weights,
    first_file,
    hub_errors,
    load_tokenizer,
    model_folder,
    one_revision,
    tokenizer_of_adapter,
)
from empathy_trl.models.limits import check_vocabulary
from empathy_trl.models.templates import end_with_turn, pin_template_arguments, set_template, special_tokens
from empathy_trl.models.tiny import build_model, build_tokenizer
from empathy_trl.tags import tag_marks

logger = logging.getLogger(__name__)

# settings of GRPO and PPO -> why an encoder-decoder cannot have them
FOR_DECODERS = {
    "use_vllm": "vLLM does not support T5; transformers generates instead",
    "use_transformers_continuous_batching": "its paged cache has no place for an encoder",
    "cast_lm_head_to_fp32": "TRL looks for the parts of a decoder",
}
FOR_ONE_SEQUENCE = "its prompt and its completion are two sequences, and the trainer for those has no such setting"
SHARED_WITH_SFT = ("max_length", "pad_to_multiple_of")  # fields of `SFTConfig` with the same meaning in `Seq2SeqConfig`
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def load_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    load_in_4bit: bool = False,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    is_trainable: bool = False,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load a language model, causal or encoder-decoder, and its tokenizer.

    Args:
        name_or_path: Hub id, also `USER/REPO@revision`, or folder of a full model or of a LoRA adapter, which is put on
            the base that it names; or a GGUF file, see `gguf`.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights: auto (that of the files), float32, bfloat16 or float16.
        attn_implementation: of transformers, such as `sdpa`; None leaves the choice to it.
        load_in_4bit: quantise the weights while they are loaded (QLoRA); needs bitsandbytes.
        chat_template: `chatml` for base models, `godel` for models that were trained on its input form, a file `*.jinja`, or
            the Hub id or folder of a model, whose template is taken; None keeps the tokenizer's own.
        chat_template_kwargs: arguments of the template, such as `{"enable_thinking": False}`, which become its defaults.
        is_trainable: an adapter's weights take gradients; give such a model to a trainer without a `peft_config`. In a
            training with FSDP or ZeRO-3, the model is loaded as a policy, which the engine completes; others are loaded whole,
            see `loading`.

    Returns:
        `(model, tokenizer)`: the model (a `PeftModel` where the source is an adapter) on the CPU unless it is quantised,
        and its tokenizer, which pads on the left.

    Raises:
        UserError: the model cannot be found, reached or read, has no chat template or one that is not for it, has no
            embedding for a token of its tokenizer, or an optional package is missing.
    """
    name, revision = one_revision(str(name_or_path), revision)
    name = user_name(name)
    options = {"dtype": dtype}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if load_in_4bit:
        options["quantization_config"] = _four_bits()
    check_exists(name)
    with hub_errors(name, revision):
        entry = first_file(name, revision, [ADAPTER_FILE, "config.json"])
    with loading(is_trainable):
        if entry.name == ADAPTER_FILE:
            with hub_errors(name, revision):
                base, base_revision = adapter_base(entry, name)
            model = _load_full(base, base_revision, options)
            model = with_saved_adapter(model, name, revision, is_trainable=is_trainable)
            source = tokenizer_of_adapter(name, revision, base, base_revision)
        else:
            model, source = _load_full(name, revision, options), (name, revision)
    tokenizer = load_tokenizer(*source, padding_side="left")
    set_template(tokenizer, chat_template, name, is_decoder=not model.config.is_encoder_decoder)
    pin_template_arguments(tokenizer, chat_template_kwargs)
    check_vocabulary(model, tokenizer, name)
    if not model.config.is_encoder_decoder:
        end_with_turn(model, tokenizer, name)
    return model, tokenizer


def loading(is_trainable: bool) -> AbstractContextManager:
    """Return the block in which a model is loaded: `whole_weights`, unless it is the policy of this training.

    A policy is loaded as FSDP or ZeRO-3 wants it, which complete its weights when the training begins. No engine completes
    a model that evaluates, judges or is merged.
    """
    return nullcontext() if is_trainable else whole_weights()


@contextmanager
def whole_weights() -> Iterator[None]:
    """Inside the block, each process loads all weights of a model, whatever engine the training has.

    With FSDP's `fsdp_cpu_ram_efficient_loading`, transformers would load zeros in all processes but the first of a machine,
    and with ZeRO-3 a part of the weights in each.
    """
    whole = patch.object(deepspeed, "_hf_deepspeed_config_weak_ref", None)
    with whole, patch.dict(os.environ, {"FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}):
        yield


def with_saved_adapter(model, name: str, revision: str | None, *, is_trainable: bool = False) -> PeftModel:
    """Load a saved adapter onto its base. Weights that do not fit are an error; peft would silently leave them out.

    An adapter that was trained with more or fewer tokens than its base includes an embedding; the base is resized to it.

    Args:
        model: the base, which is modified.
        name, revision: folder or Hub id of the adapter, and its revision.
        is_trainable: whether the adapter's weights take gradients.

    Raises:
        UserError: it cannot be read, its weights do not fit its config or this base, or it is made of virtual tokens.
    """
    with hub_errors(name, revision), warnings.catch_warnings():
        stored = load_peft_weights(name, device="cpu", revision=revision)
        if (rows := _embedding_rows(model, stored)) is not None:
            model.resize_token_embeddings(rows, mean_resizing=False)
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            adapted = PeftModel.from_pretrained(model, name, revision=revision, is_trainable=is_trainable)
        except UserWarning as error:
            missing = re.findall(r"'([^']+)'", str(error))
            raise UserError(
                f"{name}: the adapter's weights do not fit {ADAPTER_FILE} or its base: {len(missing)} are missing, such as {missing[0]}"
            ) from error
    if adapted.active_peft_config.is_prompt_learning:
        kind = adapted.active_peft_config.peft_type.value
        raise UserError(f"{name}: is an adapter of type {kind}, which is made of virtual tokens; expected LoRA")
    loaded = get_peft_model_state_dict(adapted, save_embedding_layers=False)  # else it asks the Hub for the base
    unused = len([key for key in stored if "lora_" in key]) - len([key for key in loaded if "lora_" in key])
    if unused:
        raise UserError(
            f"{name}: {unused} of the adapter's {len(stored)} weights have no place on the base, according to {ADAPTER_FILE}"
        )
    return adapted


def _embedding_rows(model, stored: Mapping[str, torch.Tensor]) -> int | None:
    """Return the number of rows of an adapter's own embedding; None if it has none, or as many rows as its base."""
    ends = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    names = [name for name, module in model.named_modules() if any(module is layer for layer in ends)]
    parts = ("", ".base_layer", ".modules_to_save")
    keys = [f"base_model.model.{name}{part}.weight" for name in names for part in parts]
    rows = next((len(stored[key]) for key in keys if key in stored), None)
    return None if rows == len(ends[0].weight) else rows


def load_or_build(
    section,
    *,
    seed: int,
    texts: Iterable[str] | None = None,
    tags: Sequence[str] = (),
    is_trainable: bool = True,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer that the section `model:` of a recipe describes; see `load_model`.

    Args:
        section: a `recipe.Model`, a `stage:` name replaced by the folder of that stage. `section.lora` is not applied here:
            trainers take `lora_config(section.lora)` beside the model.
        seed: of the initial weights of a model from scratch.
        texts: training texts for the tokenizer of a model from scratch.
        tags: names of the tags that a model from scratch gets as tokens; for a pretrained model they are plain text.
        is_trainable: an adapter's weights take gradients.

    Returns:
        As `load_model`; a model from scratch is in float32 on the CPU.
    """
    if section.from_scratch is None:
        return load_model(
            section.name_or_path,
            revision=section.revision,
            dtype=section.dtype,
            attn_implementation=section.attn_implementation,
            load_in_4bit=section.load_in_4bit,
            chat_template=section.chat_template,
            chat_template_kwargs=section.chat_template_kwargs,
            is_trainable=is_trainable,
        )
    model, tokenizer = _from_scratch(section, seed, texts, tags)
    is_decoder = not model.config.is_encoder_decoder
    set_template(tokenizer, section.chat_template, "model.from_scratch", is_decoder=is_decoder)
    pin_template_arguments(tokenizer, section.chat_template_kwargs)
    return model, tokenizer


def base_dtype(section, config) -> str:
    """Return the dtype of the weights under an adapter; "auto" is that of the files.

    For `auto` on a CPU, it is `faster_dtype`. These weights do not change, so rounding them to bfloat16 loses no update. The
    adapter is in float32 in any case.

    Args:
        section: a `recipe.Model`.
        config: of transformers.
    """
    is_open = section.dtype == "auto" and section.lora is not None and section.from_scratch is None
    if not is_open or section.load_in_4bit or torch.accelerator.is_available():
        return section.dtype
    return faster_dtype(config.get_text_config().hidden_size)


def faster_dtype(width: int) -> str:
    """Return "bfloat16" if this CPU has instructions for it and the matrices are at least 256 wide, else "float32".

    With AVX512-BF16 or AMX, matrices of that width are multiplied at least 3 times as fast in bfloat16; without them, or with
    narrow ones, bfloat16 may be slower. The answer is read and not measured: a busy machine must not change what a run computes.
    """
    return "bfloat16" if width >= 256 and torch.cpu._is_avx512_bf16_supported() else "float32"


def cast_base(model, dtype: str) -> None:
    """Turn the weights of a model to a dtype.

    As in `from_pretrained`, buffers such as the frequencies of positions stay as they are, and so do weights that the model
    always has in float32, and those of its adapter.
    """
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    kept = {"lora_", *(f".{name}." for name in bare._keep_in_fp32_modules_strict or ())}
    for name, weight in model.named_parameters():
        if not any(part in name for part in kept):
            weight.data = weight.data.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)


def generator_class(config):
    """Return transformers' auto class for a language model with this configuration, and peft's type of its task."""
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM, TaskType.SEQ_2_SEQ_LM
    return AutoModelForCausalLM, TaskType.CAUSAL_LM


def lora_config(lora, task_type: str = TaskType.CAUSAL_LM, base_revision: str | None = None) -> LoraConfig | None:
    """Translate the `lora:` part of a recipe (`recipe.Lora`) for peft; None stays None (full fine-tuning).

    Args:
        lora: None or the section.
        task_type: of peft, see `generator_class`; with `SEQ_CLS` the head is trained in full and saved with the adapter.
        base_revision: of the base model, so that the saved adapter finds the same base again.
    """
    if lora is None:
        return None
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=task_type,
        revision=base_revision,
    )


def decoder_settings(settings: Mapping[str, Any], config_class: type) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for settings that an encoder-decoder cannot be trained with and that are not the default.

    Args:
        settings: of a trainer.
        config_class: `trl.SFTConfig`, `trl.GRPOConfig`, or a subclass.
    """
    from transformers import TrainingArguments
    from trl import SFTConfig

    fields = {field.name: field.default for field in dataclasses.fields(config_class)}
    reasons = dict(FOR_DECODERS)
    if issubclass(config_class, SFTConfig):
        common = {field.name for field in dataclasses.fields(TrainingArguments)} | {*SHARED_WITH_SFT}
        own = [field.name for field in dataclasses.fields(SFTConfig) if field.name not in common]
        reasons |= dict.fromkeys(own, FOR_ONE_SEQUENCE)
    for key, reason in reasons.items():
        if key in settings and key in fields and settings[key] != fields[key]:
            yield key, f"{show(settings[key])}, but the model is an encoder-decoder: {reason}; leave it out"


def start_token(model) -> int:
    """Return the id that a decoder reads first."""
    start = model.generation_config.decoder_start_token_id
    return model.config.decoder_start_token_id if start is None else start


@contextmanager
def evaluating(model):
    """Inside the block, a model is in evaluation mode; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def without_generation_defaults(model) -> AbstractContextManager:
    """Inside the block, `generate` takes nothing but the special tokens from the generation settings of a model.

    transformers fills what a caller leaves open from `model.generation_config`. That of BART or BlenderBot asks for beams, a
    shortest length, forbidden repetitions and forced tokens.

    Args:
        model: a transformers model, or an adapter on one.
    """
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    usual = bare.generation_config
    return patch.object(
        bare, "generation_config", GenerationConfig(**{name: getattr(usual, name) for name in SPECIAL_TOKENS})
    )


def check_tags(
    tags_of_rewards: dict[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase, optional: bool = False
) -> None:
    """Refuse a tag that a reward looks for and that no decoded completion can contain.

    Trainers decode completions with `skip_special_tokens=True`, so a tag that is a special token is gone before the reward
    sees it. A vocabulary without bytes may lack a character: that of T5 has no `<`.

    Args:
        tags_of_rewards: name of a reward -> names of the tags it looks for, such as `answer`.
        tokenizer: of the policy.
        optional: whether the rewards also read completions without their tags; then a vocabulary may lack them.

    Raises:
        UserError: names the first such tag and its reward.
    """
    special = special_tokens(tokenizer)
    for reward, tags in tags_of_rewards.items():
        for token in tag_marks(tags):
            if token in special:
                raise UserError(
                    f"rewards.{reward}: the tag {token} is a special token of this tokenizer, so it is removed "
                    "from every completion before a reward reads it; add it as an ordinary token "
                    "(tokenizer.add_tokens), or choose another tag"
                )
            written = tokenizer.decode(
                tokenizer(token, add_special_tokens=False)["input_ids"], skip_special_tokens=True
            )
            if not optional and token not in written:
                raise UserError(
                    f"rewards.{reward}: the tag {token} cannot be written with this tokenizer, which makes {show(written)} of "
                    "it; choose a model whose vocabulary has all characters of the tag, or add the tag as a token "
                    "(tokenizer.add_tokens, model.resize_token_embeddings) and save both"
                )


def _from_scratch(config, seed: int, texts: Iterable[str] | None, tags: Sequence[str]):
    """Train a tokenizer on the texts and build a random model for it."""
    if texts is None:
        raise UserError("model.from_scratch: needs training texts to build a tokenizer from")
    if config.load_in_4bit:
        raise UserError("model.load_in_4bit: only a pretrained model (model.name_or_path) can be quantised")
    scratch = config.from_scratch
    tokenizer = build_tokenizer(texts, scratch.vocab_size, tags, scratch.max_length)
    model = build_model(scratch, tokenizer, seed)
    if config.dtype != "auto":
        model.to(getattr(torch, config.dtype))
    if config.attn_implementation is not None:
        try:
            model.set_attn_implementation(config.attn_implementation)
        except (ImportError, ValueError) as error:
            raise UserError(f"model.attn_implementation: {error}") from error
    return model, tokenizer


def _load_full(name: str, revision: str | None, options: dict) -> PreTrainedModel:
    """Load a model that is not an adapter; `options` are those of `from_pretrained`."""
    check_exists(name)
    with hub_errors(name, revision):
        first_file(name, revision, ["config.json"])  # its errors are clearer than those of transformers
        folder = model_folder(name)
        try:
            architecture = AutoConfig.from_pretrained(folder, revision=revision, **NO_CODE)
        except (ImportError, ValueError) as error:  # an unknown architecture
            raise UserError(f"{name}: cannot be loaded: {error}") from error
        check_writes(name, architecture)
        try:
            auto, _ = generator_class(architecture)
            # Weights of another shape are reported like missing ones, instead of as an error without their names.
            model, report = auto.from_pretrained(
                folder, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True, **NO_CODE, **options
            )
        except (ImportError, ValueError) as error:  # no flash attention, impossible option
            raise UserError(f"{name}: cannot be loaded: {error}") from error
    check_weights(name, report)
    model.name_or_path = name  # of a GGUF file its own, which an adapter records as its base
    _make_savable(model, name)
    contiguous_head(model)
    if "quantization_config" in options:
        _keep_trainable(model)
    return model


def contiguous_head(model) -> None:
    """Make the LM head read a copy of what it gets in half precision on a CPU, if that is a slice of all positions.

    PyTorch multiplies such a slice (`logits_to_keep`) in a batched product, for which it copies the head's weights once per row. With
    SmolLM2 and 32 prompts, this copy takes 6.8 s and the product 0.01 s.

    Args:
        model: a model of transformers, or an adapter on one; modified if it has an LM head.
    """
    head = model.get_output_embeddings()
    if head is not None and _contiguous_input not in head._forward_pre_hooks.values():
        head.register_forward_pre_hook(_contiguous_input)


def _contiguous_input(module, args):
    hidden, *others = args
    slow = hidden.device.type == "cpu" and hidden.dtype in (torch.bfloat16, torch.float16)
    return (hidden.contiguous(), *others) if slow else args


def _make_savable(model: PreTrainedModel, name: str) -> None:
    """Drop generation settings that transformers loads but refuses to save; otherwise, a trained model could not be saved.

    The special tokens are kept. The other settings are not used here anyway, see `without_generation_defaults`.
    """
    settings = model.generation_config
    try:
        settings.validate(strict=True)
    except ValueError as error:
        model.generation_config = GenerationConfig(**{key: getattr(settings, key) for key in SPECIAL_TOKENS})
        problems = re.findall(r"^- `(\w+)`", str(error), flags=re.MULTILINE) or [str(error)]
        logger.warning(
            "%s: generation_config.json contradicts itself (%s) and could not be saved with a trained model: only its special "
            "tokens are kept",
            name,
            ", ".join(problems),
        )


def check_writes(name: str, config) -> None:
    """Raise UserError if a model with this config is a classifier, a regressor or an encoder, which generate no text."""
    for architecture in config.architectures or ():
        if architecture.endswith("ForSequenceClassification"):
            raise UserError(
                f"{name}: is a classifier or regressor ({architecture}), which generates no text; expected a language "
                "model here, or a stage with `task: regress` or `task: classify` (--stage)"
            )
    is_masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder
    if is_masked and not getattr(config, "is_decoder", False):
        raise UserError(
            f"{name}: is an encoder ({config.model_type}), which generates no text; expected a language model here, or a stage "
            "with `task: regress` or `task: classify`, which puts a head on it"
        )


def _four_bits() -> BitsAndBytesConfig:
    """QLoRA's quantisation: 4-bit NormalFloat, computed in bfloat16, the constants quantised too."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            'model.load_in_4bit: needs bitsandbytes; install it with pip install "empathy-trl[quantization]"'
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _keep_trainable(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first forward in evaluation mode on some CPUs.

    It does so for speed where the CPU has AVX512-BF16, and never undoes it: a later training step would then get no
    gradients through these layers, without a word.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def weights_digest(model) -> str:
    """Return a hash of a model as it is loaded: names, shapes and types of its weights, and evenly spaced numbers of each.

    Whatever a folder, a revision or an adapter is called: another training has moved nearly all of these numbers.
    """
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 512)].contiguous().cpu()
        total.update(some.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]

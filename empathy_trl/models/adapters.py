"""LoRA adapters: loading one onto its base, merging it, and training another one after it.

`load_adapter` loads an adapter. On the wrong base, it would load without an error if the shapes fit, and the model would produce
nonsense. Therefore, a base with another name is refused. If the names cannot be compared, because a folder no longer exists,
the shapes decide.

`merge_adapter` does every merge of the package. A merged model can also differ from its adapter without an error: most small
models use one matrix as embedding and as output layer (tied weights), so an adapter on one of the two would be merged into
both. `merge_adapter` unties the weights first. It then compares the outputs of the merged model with those of the adapter,
before and after saving and loading.

`fuse_adapters` makes LoRA layers add to the output of their base in place: in a training on a CPU, and while a model decodes.

If a recipe asks for another adapter than the one that its model already has, `with_merged_base` merges the old one first.
`adapter_changes` compares the two.
"""

import copy
import re
import shutil
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from empathy_trl.errors import UserError, show, suggestion
from empathy_trl.io import is_gguf, is_hub_id, user_name
from empathy_trl.models.batching import render
from empathy_trl.models.hub_files import (
    ADAPTER_FILE,
    NO_CODE,
    adapter_base,
    check_exists,
    first_file,
    hub_errors,
    model_folder,
    one_revision,
    split_revision,
)
from empathy_trl.models.limits import position_limit
from empathy_trl.models.load import (
    evaluating,
    generator_class,
    load_model,
    lora_config,
    start_token,
    whole_weights,
    with_saved_adapter,
)

# (message, reply): texts on which adapter and merged model are compared if the training data are not at hand
EXAMPLES = (
    ("My dog died on Sunday, and the house is so quiet now.", "I am so sorry. How long was he with you?"),
    ("I got the job! I start in May.", "Congratulations! You worked so hard for this."),
    ("Everyone laughed when I tripped on the stage.", "That must have been embarrassing. Were you hurt?"),
    ("He promised to call, and again he forgot.", "No wonder that you are angry with him."),
)
TOKENS = 64  # of an example, at most
# Largest difference of outputs that rounding explains, as a share of the largest output, and of the adapter's own change.
# SmolLM2-135M in float32 has 3e-6 of the largest output, or 1e-4 of the change; with weights rounded to bfloat16, 1e-2.
EXACT, EXACT_EFFECT = 1e-4, 1e-2
ROUNDING = {torch.bfloat16: 0.05, torch.float16: 0.05}


def check_adapter(adapter: str, model: str) -> str:
    """Return the base that an adapter names.

    Raises:
        UserError: there is no such adapter, or its base is another one than `model`.
    """
    try:
        path, revision = split_revision(user_name(adapter))
        check_exists(path)
        with hub_errors(path, revision):
            base, _ = adapter_base(first_file(path, revision, [ADAPTER_FILE]), path)
    except UserError as error:
        raise UserError(f"adapter {error}") from error
    if is_same_model(base, user_name(model)) is False:
        raise _other_base(adapter, base, model)
    return base


def is_same_model(base: str, model: str) -> bool | None:
    """Return whether two names mean the same model; None if this cannot be decided, because a folder no longer exists.

    Args:
        base: folder or Hub id from the adapter's config.
        model: folder or Hub id from the user.
    """
    if base == model:
        return True
    if Path(base).exists() and Path(model).exists():
        return Path(base).resolve() == Path(model).resolve()
    if Path(base).exists() or Path(model).exists():
        folder, other = (base, model) if Path(base).exists() else (model, base)
        if not is_hub_id(other):
            return None
        # a copy has the id's name, in the Hub's cache too
        return Path(folder).name == other.rpartition("/")[2] or f"models--{other.replace('/', '--')}" in folder
    return False if is_hub_id(base) else None


def load_adapter(model, adapter: str, base: str, name: str) -> PeftModel:
    """Return a model with an adapter on it.

    Args:
        adapter: folder or Hub id.
        base: the model that the adapter names.
        name: of the model, for the message.

    Raises:
        UserError: the adapter's weights are not for this model.
    """
    try:
        return with_saved_adapter(model, *split_revision(user_name(adapter)))
    except UserError as error:  # other shapes, or none of its layers
        raise _other_base(adapter, base, name) from error


def _other_base(adapter: str, base: str, model: str) -> UserError:
    return UserError(
        f"adapter {adapter}: was trained on {base}, but the model is {model}; expected that base, or an adapter of this model"
    )


@dataclass(frozen=True)
class Difference:
    """Difference between the outputs of a merged model and those of its adapter, both computed in float32.

    Attributes:
        largest: largest absolute difference of two logits, or of two ratings.
        effect: the same between the adapter and its base.
        same: share of the places, 0 to 1, at which the same token, label or rating is the highest.
        places: number of tokens that were compared; for a model with a head, number of texts.
    """

    largest: float
    effect: float
    same: float
    places: int

    def __str__(self) -> str:
        return (
            f"outputs differ by at most {self.largest:.2g} (the adapter itself changes them by up to {self.effect:.2g}); the "
            f"highest output is the same in {self.same:.1%} of {self.places} places"
        )


@whole_weights()
def merge_adapter(
    model: PeftModel, inputs: Sequence[dict], *, name: str, folder: str | Path | None = None
) -> tuple[PreTrainedModel, Difference]:
    """Merge the active adapters into their base, in place, and compare the outputs before and after.

    If a layer with an adapter shares its weights with another layer, as embedding and output layer often do, it gets weights
    of its own, and `tie_word_embeddings` in the config of the merged model becomes false. Adapters are added in float32, which
    needs the memory for a float32 copy, and the sum is rounded to the type of the base once.

    Args:
        model: an adapter on a base that is not quantised; it cannot be used afterwards.
        inputs: inputs of the model, one row each, on which the outputs are compared; see `example_inputs`.
        name: name of the adapter, for messages.
        folder: where to save the merged model. The model loaded from there is then compared and returned.

    Returns:
        The merged model, and its difference from the adapter.

    Raises:
        UserError: the outputs differ by more than rounding explains, or this adapter cannot be merged.
        OSError, SafetensorError: the folder cannot be written.
    """
    base = model.get_base_model()
    _check_mergeable(model, base, name)
    layers = {key.rpartition(".")[2] for key, module in base.named_modules() if isinstance(module, BaseTunerLayer)}
    _untie(base)
    expected, effect = adapter_outputs(model, inputs)
    with _in_float32(base):
        merged = _merge(model, name)
        exact = _outputs(merged, inputs)
    with _in_float32(merged):  # the weights are rounded now
        outputs = stored = _outputs(merged, inputs)
    if folder is not None:
        merged.save_pretrained(folder)
        merged = type(merged).from_pretrained(folder, dtype="auto").to(merged.device)
        with _in_float32(merged):
            outputs = _outputs(merged, inputs)
    result, largest = _difference(expected, effect, outputs), expected.abs().max().item()
    allowed = max(EXACT * largest, EXACT_EFFECT * effect)
    rounding = max(allowed, ROUNDING.get(merged.dtype, 0) * largest)
    for step, change, tolerance in (
        ("the adapter is merged", _largest(expected, exact), allowed),
        ("the merged model is saved and loaded", _largest(stored, outputs), allowed),
        (f"the weights are rounded to {str(merged.dtype).removeprefix('torch.')}", result.largest, rounding),
    ):
        if not change <= tolerance:  # also nan
            raise UserError(
                f"{name}: the outputs change by up to {change:.2g} when {step}, but rounding explains at most {tolerance:.2g}; in "
                f"total, {result}. Use the adapter without merging, or train one on other layers (now {', '.join(sorted(layers))})"
            )
    return merged, result


def adapter_outputs(model: PeftModel, inputs: Sequence[dict]) -> tuple[torch.Tensor, float]:
    """Return the outputs of an adapter, float32 of shape (places, outputs), and the largest change by the adapter."""
    base = model.get_base_model()
    with _in_float32(base):
        outputs = _outputs(base, inputs)
        with model.disable_adapter():
            return outputs, _largest(outputs, _outputs(base, inputs))


def difference(expected: tuple[torch.Tensor, float], model: PreTrainedModel, inputs: Sequence[dict]) -> Difference:
    """Return the difference between a model's outputs and those of an adapter, see `adapter_outputs`."""
    with _in_float32(model):
        return _difference(*expected, _outputs(model, inputs))


def _difference(expected: torch.Tensor, effect: float, outputs: torch.Tensor) -> Difference:
    same = (expected.argmax(-1) == outputs.argmax(-1)).float().mean().item()
    return Difference(_largest(expected, outputs), effect, same, len(expected))


def _check_mergeable(model: PeftModel, base: PreTrainedModel, name: str) -> None:
    kind = model.active_peft_config
    if kind.is_prompt_learning:
        raise UserError(f"{name}: an adapter of type {kind.peft_type.value} has no weights to merge; use it unmerged")
    if getattr(base, "is_quantized", False):
        raise UserError(
            f"{name}: its base is quantised, and merging would round the adapter to a few bits; load the base unquantised "
            "(model.load_in_4bit: false) to merge"
        )


def _untie(base: PreTrainedModel) -> set[str]:
    """Untie all weights that an adapted or copied layer shares with another module; return the names of these layers."""
    places, adapted = defaultdict(list), {}
    for name, module in base.named_modules():
        for key, weight in module.named_parameters(recurse=False):
            places[weight].append((module, key))
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):  # LoRA, or a copy for modules_to_save
            layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            adapted |= {weight: name.rpartition(".")[2] for weight in layer.parameters(recurse=False)}
    for weight in adapted:
        for module, key in places[weight][1:]:
            setattr(module, key, copy.deepcopy(weight))
    return {name for weight, name in adapted.items() if len(places[weight]) > 1}


def _merge(model: PeftModel, name: str) -> PreTrainedModel:
    """Return the merged model. Weights that were tied are tied again if they are equal after merging."""
    base = model.get_base_model()
    tied, was_tied = dict(getattr(base, "all_tied_weights_keys", None) or {}), base.config.tie_word_embeddings
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|no longer tied)")  # these are untied
        try:
            merged = model.merge_and_unload()
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise UserError(f"{name}: this adapter cannot be merged into its base: {error}") from error
    is_tied = all(
        torch.equal(merged.get_parameter(target), merged.get_parameter(source)) for target, source in tied.items()
    )
    if is_tied:
        for target, source in tied.items():
            parent, _, key = target.rpartition(".")
            setattr(merged.get_submodule(parent), key, merged.get_parameter(source))
    merged.all_tied_weights_keys = tied if is_tied else {}
    for config in (merged.config, merged.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = was_tied and is_tied
    return merged


class FusedLora(lora.Linear):
    """peft's LoRA layer, whose adapter adds to the output of its base in place, in the type that the base computes in.

    peft turns the input of every adapter to float32, keeps it for the backward pass, and makes three more tensors of the size of
    the output. As under autocast, the adapter's weights stay in float32 and are rounded to the type of the computation.
    """

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        names = [name for name in self.active_adapters if name in self.lora_A]
        plain = len(names) == 1 and not (self.disable_adapters or self.merged or self.lora_variant or args or kwargs)
        if not plain or self.lora_B[names[0]].bias is not None:
            return super().forward(x, *args, **kwargs)
        (name,) = names
        result = self.base_layer(x)
        inner = F.linear(self.lora_dropout[name](x), self.lora_A[name].weight.to(result.dtype))
        outer = self.lora_B[name].weight.to(result.dtype)
        result.view(-1, result.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), outer.t(), alpha=self.scaling[name])
        return result


def fuse_adapters(model: nn.Module) -> list[lora.Linear]:
    """Make the LoRA layers of a model `FusedLora`; 4-bit and other layers stay as they are. Return the layers that changed."""
    layers = [module for module in model.modules() if type(module) is lora.Linear]
    for layer in layers:
        layer.__class__ = FusedLora
    return layers


@contextmanager
def fused_adapters(model: nn.Module) -> Iterator[None]:
    """Inside the block, the LoRA layers of a model are `FusedLora`: for decoding, where a step costs more than its numbers."""
    layers = fuse_adapters(model)
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = lora.Linear


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Compute in float32 and without dropout inside the block; restore the types of the weights afterwards.

    In bfloat16, rounding between the layers changes outputs as much as a wrong merge does.
    """
    weights = [(weight, weight.dtype) for weight in model.parameters() if weight.is_floating_point()]
    products, precision = torch.backends.cuda.matmul, torch.backends.cuda.matmul.fp32_precision
    for weight, _ in weights:
        weight.data = weight.data.float()
    products.fp32_precision = "ieee"  # not TF32
    try:
        with evaluating(model):
            yield
    finally:
        products.fp32_precision = precision
        for weight, dtype in weights:
            weight.data = weight.data.to(dtype)


def _outputs(model: PreTrainedModel, inputs: Sequence[dict]) -> torch.Tensor:
    """Return the logits of all inputs, float32 of shape (places, outputs)."""
    with torch.no_grad():
        logits = [model(**{key: value.to(model.device) for key, value in row.items()}).logits for row in inputs]
    return torch.cat([each.flatten(0, -2).float().cpu() for each in logits])


def _largest(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def example_inputs(
    model: PreTrainedModel | PeftModel, tokenizer, examples: Sequence[tuple[str, str]] = EXAMPLES
) -> list[dict[str, torch.Tensor]]:
    """Return inputs of a model for `merge_adapter`, one row each, of at most 64 tokens.

    Args:
        examples: messages with their replies; for a model with a head, texts with their pairs ("" without a pair).
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return [_encode(base, tokenizer, *example) for example in examples]


def _encode(base: PreTrainedModel, tokenizer, text: str, reply: str) -> dict[str, torch.Tensor]:
    longest = min(TOKENS, (position_limit(base) or TOKENS) - 1)
    cut = {"truncation": True, "max_length": longest, "return_tensors": "pt"}
    if not base.can_generate():  # a head for ratings or labels
        return dict(tokenizer(text, reply or None, **cut))
    prompt, marks = text, {}
    if tokenizer.chat_template is not None:
        prompt = render(tokenizer, [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        marks = {"add_special_tokens": False}
    if not base.config.is_encoder_decoder:
        return dict(tokenizer(prompt + reply, **cut, **marks))
    answer = tokenizer(reply, add_special_tokens=False, **cut)["input_ids"]
    start = nn.functional.pad(answer, (1, 0), value=start_token(base))
    return {**tokenizer(prompt, **cut, **marks), "decoder_input_ids": start}


# fields of `peft.LoraConfig` that affect what an adapter learns -> keys of `lora:`, or None if a recipe cannot set them
ADAPTER_FORM = {
    "r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "target_modules",
    **dict.fromkeys(("bias", "use_rslora", "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern")),
    **dict.fromkeys(("target_parameters", "trainable_token_indices", "lora_bias")),
}


def saved_adapter(name: str, revision: str | None = None) -> PeftConfig | None:
    """Return the settings of the adapter in a folder or Hub repository, or None if it has a whole model.

    Raises:
        UserError: as `load_model`.
    """
    name, revision = one_revision(name, revision)
    name = user_name(name)
    check_exists(name)
    with hub_errors(name, revision):
        entry = first_file(name, revision, [ADAPTER_FILE, "config.json"])
        return PeftConfig.from_pretrained(str(entry.parent)) if entry.name == ADAPTER_FILE else None


def adapter_file(section) -> Path | None:
    """Return `adapter_config.json` of the model that a recipe's section `model:` names; None for another or a missing model.

    The Hub is not asked: the file is in a folder or in the Hub's cache.
    """
    name = section.name_or_path
    if section.from_scratch is not None or is_gguf(name):
        return None
    if (folder := Path(user_name(name))).is_dir():
        return folder / ADAPTER_FILE if (folder / ADAPTER_FILE).is_file() else None
    cached = try_to_load_from_cache(name, ADAPTER_FILE, revision=section.revision)
    return Path(cached) if isinstance(cached, str) else None


def adapter_here(section) -> PeftConfig | None:
    """Return the settings in `adapter_file`; None without it."""
    file = adapter_file(section)
    return file and PeftConfig.from_pretrained(str(file.parent))


@whole_weights()
def with_merged_base(section, folder: Path):
    """Return a recipe's section `model:`, with its model replaced by a merged one if its adapter differs from `lora:`.

    An adapter that equals `lora:` is trained further, and the section is returned unchanged. If it differs, adapter and base
    are merged into `folder`, and the returned section names this folder, also when the run is resumed. The base is loaded
    unquantised for this, because 4-bit weights cannot be merged exactly.

    Args:
        section: a `recipe.Model`, with a `stage:` name replaced by the folder of that stage.
        folder: for the merged model. A crashed attempt leaves files beside it.
    """
    if section.lora is None or section.from_scratch is not None:
        return section
    merged = section.model_copy(update={"name_or_path": str(folder), "revision": None})
    if folder.is_dir():
        return merged
    brought = saved_adapter(section.name_or_path, section.revision)
    if brought is None:
        return section
    config = base_config(section.name_or_path, section.revision)
    changes = adapter_changes(lora_config(section.lora, generator_class(config)[1]), brought, config)
    if not changes:
        return section
    print(
        f"{section.name_or_path}: its adapter is merged into {folder}, and a new one is trained ({', '.join(changes)})"
    )
    model, tokenizer = load_model(
        section.name_or_path, revision=section.revision, dtype=section.dtype, chat_template=section.chat_template
    )
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _, difference = merge_adapter(model, example_inputs(model, tokenizer), name=section.name_or_path, folder=unfinished)
    print(f"{section.name_or_path}: merged: {difference}")
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
    return merged


def base_config(name: str, revision: str | None):
    """Return the config of the model below an adapter."""
    name, revision = one_revision(name, revision)
    with hub_errors(user_name(name), revision):
        base, base_revision = adapter_base(first_file(user_name(name), revision, [ADAPTER_FILE]), user_name(name))
    with hub_errors(base, base_revision):
        return AutoConfig.from_pretrained(model_folder(base), revision=base_revision, **NO_CODE)


def adapter_changes(asked: LoraConfig, brought: PeftConfig, config=None) -> list[str]:
    """Return the settings in which a recipe's LoRA adapter differs from the adapter that its model already has.

    Args:
        asked: the recipe's adapter, from `lora_config`.
        brought: the model's adapter.
        config: config of the base model, to compare the modules that `target_modules` selects; without it, the names are
            compared as they are written.

    Returns:
        One text per setting, such as "r 8 → 16"; empty if the two adapters are equal.
    """
    if brought.peft_type != asked.peft_type:
        return [f"{brought.peft_type.value} → {asked.peft_type.value}"]
    changes = []
    for field, key in ADAPTER_FORM.items():
        old, new = getattr(brought, field, None) or None, getattr(asked, field) or None
        if field == "target_modules":
            old, new = (_adapted_modules(each, config) for each in (brought, asked))
            if old != new:
                changes.append(f"{key} {_listed(brought.target_modules)} → {_listed(asked.target_modules)}")
        elif old != new:
            changes.append(f"{key or field} {getattr(brought, field, None)} → {getattr(asked, field)}")
    return changes


def check_targets(config, adapter: LoraConfig, use_vllm: bool = False) -> None:
    """Refuse layers on which an adapter would have no effect, or a wrong one.

    Args:
        config: config of the language model.
        adapter: the adapter that will be trained.
        use_vllm: whether vLLM generates. TRL sends the merged weights to vLLM, which ties them again as the config says.

    Raises:
        UserError: names `model.lora.target_modules` and the layers.
    """
    if adapter.target_modules == "all-linear":  # neither embedding nor output layer
        return
    base = _on_meta(config, adapter).get_base_model()
    names = {key.rpartition(".")[2] for key, module in base.named_modules() if isinstance(module, BaseTunerLayer)}
    if config.is_encoder_decoder and "shared" in names:
        raise UserError(
            "model.lora.target_modules: shared has no effect, because encoder and decoder have embeddings of their own; expected "
            "embed_tokens"
        )
    if use_vllm and (tied := sorted(_untie(base))):
        raise UserError(
            f"model.lora.target_modules: {', '.join(tied)} shares its weights with another layer, and vLLM would apply the adapter "
            "to both; leave it out, or set trainer.use_vllm: false"
        )


def exclude_images(model, adapter: PeftConfig) -> None:
    """Exclude what reads images in a multimodal model, such as Gemma 3, from a new adapter.

    Prompts are text, so an adapter of the vision tower, whose attention has a `q_proj` too, would never get a gradient.

    Args:
        model: a language model.
        adapter: modified if it is for a decoder beside which the model has other parts.
    """
    if adapter.task_type != TaskType.CAUSAL_LM or model.config.get_text_config(decoder=True) is model.config:
        return
    ends = (model.get_decoder(), model.get_output_embeddings())
    decoder, head = (next(name for name, module in model.named_modules() if module is end) for end in ends)
    adapter.exclude_modules = rf"(?!{re.escape(decoder)}\.|{re.escape(head)}$).*"


def check_target_names(model, adapter: LoraConfig) -> None:
    """Refuse names in `target_modules` that are no layers of a model: peft leaves them out as long as one name is a layer.

    Raises:
        UserError: names `model.lora.target_modules` and the layers that the model has.
    """
    targets, excluded = adapter.target_modules, adapter.exclude_modules or "(?!)"
    layers = {name: layer for name, layer in model.named_modules() if not re.fullmatch(excluded, name)}
    if targets == "all-linear" or targets is None:
        return
    if isinstance(targets, str):
        if not any(re.fullmatch(targets, name) for name in layers):
            raise UserError(
                f"model.lora.target_modules: {show(targets)} is read as a regular expression, which no layer's whole name "
                f"matches; for names, write a list: [{targets}]"
            )
        return
    missing = sorted(target for target in targets if not any(f".{name}".endswith(f".{target}") for name in layers))
    if missing:
        weighted = {name.rpartition(".")[2] for name, layer in layers.items() if hasattr(layer, "weight")}
        raise UserError(
            f"model.lora.target_modules: the model has no layer {', '.join(missing)}"
            f"{suggestion(missing[0], sorted(weighted), title='layers')}"
        )


def _adapted_modules(adapter: LoraConfig, config) -> set[str]:
    """Return the names of the layers that an adapter changes; without a config, the names as they are written."""
    if config is None:
        targets = adapter.target_modules
        return {targets} if isinstance(targets, str) else set(targets or ())
    return set(_on_meta(config, adapter).base_model.targeted_module_names)


@whole_weights()
def _on_meta(config, adapter: PeftConfig) -> PeftModel:
    """Return a language model with an adapter on the meta device, which needs no memory for the weights."""
    auto, _ = generator_class(config)
    with torch.device("meta"):
        return adapted(auto.from_config(config), as_new(adapter))


def as_new(adapter: PeftConfig) -> PeftConfig:
    """Return a copy of an adapter's settings for a new adapter, which is trained and has no base yet."""
    adapter = copy.deepcopy(adapter)
    adapter.inference_mode, adapter.base_model_name_or_path = False, None
    return adapter


def adapted(model, adapter: PeftConfig) -> PeftModel:
    """Return a model with a new adapter; see `exclude_images`.

    Raises:
        UserError: the adapter has a layer that it cannot be put on.
    """
    exclude_images(model, adapter)
    asked = adapter.target_modules  # peft replaces `all-linear` by the layers
    try:
        return get_peft_model(model, adapter)
    except TypeError as error:  # a layer of the head, such as pre_classifier of DistilBERT with all-linear
        raise UserError(
            f"model.lora.target_modules: {show(asked)} has a layer of the head, which is trained in full beside the "
            f"adapter; name other layers ({error})"
        ) from error
    except ValueError as error:
        raise UserError(f"model.lora.target_modules: {_listed(asked)}: {error}") from error


def _listed(targets: str | Iterable[str] | None) -> str:
    if isinstance(targets, str):
        return targets
    names = sorted(targets or ())
    return f"[{', '.join(names[:4])}{', …' if len(names) > 4 else ''}]"

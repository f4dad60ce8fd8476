"""Loading a model for chat: a full model, or a base model with a LoRA adapter that was trained on it.

An adapter can be loaded onto the wrong base without an error if the shapes fit, and the model then produces nonsense.
So a base with another name is refused. If the names cannot be compared, because a folder no longer exists, the shapes
decide.
"""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from empathy_trl.errors import UserError
from empathy_trl.io import is_hub_id
from empathy_trl.models.batching import check_vocabulary
from empathy_trl.models.hub_files import (
    ADAPTER_FILE,
    adapter_base,
    check_exists,
    expand,
    first_file,
    hub_errors,
    load_tokenizer,
    one_revision,
    split_revision,
    tokenizer_of_adapter,
)
from empathy_trl.models.load import load_model, set_template

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def load_for_chat(name: str, adapter: str | None = None, revision: str | None = None, load_in_4bit: bool = False):
    """Return model and tokenizer, the model on the GPU where there is one.

    Args:
        name: folder or Hub id of a model, or without `adapter` of an adapter, which names its base.
        adapter: folder or Hub id of a LoRA adapter for the model.
        revision: of `name`, which like `adapter` may also have one behind an @.
        load_in_4bit: quantise the weights; needs the extra `quantization`.

    Raises:
        UserError: something is missing or cannot be read, or the adapter was trained on another base; names both then.
    """
    name, revision = one_revision(expand(name), revision)
    _refuse_folder_of_stages(Path(name))
    base = check_adapter(adapter, name) if adapter else None
    model, tokenizer = load_model(name, revision=revision, load_in_4bit=load_in_4bit)
    if adapter:
        if isinstance(model, PeftModel):
            raise UserError(f"adapter: {name} is an adapter itself; expected its base as the model, or no adapter")
        model = _adapted(model, adapter, base, name)
        place = split_revision(expand(adapter))
        tokenizer = load_tokenizer(*tokenizer_of_adapter(*place, name, revision), padding_side="left")
        tokenizer.chat_template = tokenizer.chat_template or load_tokenizer(name, revision).chat_template
        set_template(tokenizer, None, adapter)
        check_vocabulary(model, tokenizer, adapter)
    if torch.cuda.is_available() and not load_in_4bit:
        model.to("cuda")
    return model, tokenizer


def _refuse_folder_of_stages(folder: Path):
    """Raise UserError for the folder of a recipe, in which every stage has a folder of its own."""
    if (folder / "config.json").is_file() or (folder / ADAPTER_FILE).is_file():
        return
    stages = sorted(str(path.parent) for file in ("config.json", ADAPTER_FILE) for path in folder.glob(f"*/{file}"))
    if stages:
        raise UserError(f"{folder}: is not a model, but contains models; expected one of {', '.join(stages)}")


def check_adapter(adapter: str, model: str) -> str:
    """Return the base that an adapter names.

    Raises:
        UserError: there is no such adapter, or its base is another one than `model`.
    """
    try:
        path, revision = split_revision(expand(adapter))
        check_exists(path)
        with hub_errors(path, revision):
            base, _ = adapter_base(first_file(path, revision, [ADAPTER_FILE]), path)
    except UserError as error:
        raise UserError(f"adapter {error}") from error
    if is_same(base, expand(model)) is False:
        raise _other_base(adapter, base, model)
    return base


def is_same(base: str, model: str) -> bool | None:
    """Return whether two names mean the same model; None where a folder is gone, so that nobody can tell.

    Args:
        base: folder or Hub id from the adapter's config.
        model: folder or Hub id from the user.
    """
    if base == model:
        return True
    if Path(base).is_dir() and Path(model).is_dir():
        return Path(base).resolve() == Path(model).resolve()
    if Path(base).is_dir() or Path(model).is_dir():
        folder, other = (base, model) if Path(base).is_dir() else (model, base)
        if not is_hub_id(other):
            return None
        # a copy has the id's name, in the Hub's cache too
        return Path(folder).name == other.rpartition("/")[2] or f"models--{other.replace('/', '--')}" in folder
    return False if is_hub_id(base) else None


def _adapted(model, adapter: str, base: str, name: str):
    """Return the model with the adapter on it; UserError if its weights are not for this model."""
    path, revision = split_revision(expand(adapter))
    with hub_errors(path, revision):
        weights = first_file(path, revision, [ADAPTER_WEIGHTS, "adapter_model.bin"])
        try:
            adapted = PeftModel.from_pretrained(model, path, revision=revision, is_trainable=False)
        except (RuntimeError, ValueError, KeyError) as error:  # other shapes, or none of its layers
            raise _other_base(adapter, base, name) from error
    if weights.name == ADAPTER_WEIGHTS:
        with hub_errors(path, revision), safe_open(weights, framework="pt") as file:
            stored = {key for key in file.keys() if "lora_" in key}  # noqa: SIM118 - it is no mapping
        loaded = get_peft_model_state_dict(adapted, save_embedding_layers=False)  # else it asks the Hub for the base
        if stored != {key for key in loaded if "lora_" in key}:  # peft leaves out what finds no place
            raise _other_base(adapter, base, name)
    return adapted


def _other_base(adapter: str, base: str, model: str) -> UserError:
    return UserError(
        f"adapter {adapter}: was trained on {base}, but the model is {model}; expected that base, or an adapter of this model"
    )

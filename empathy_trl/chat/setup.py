"""From what was said to the messages a model was trained on.

Which those are says the recipe that trained it: `recipe.yaml` in the model's folder, or `--recipe`. A model without one is
talked to plainly, with the system message the user gives, or none.

What a user types is text and stays text: tokens that steer a chat template, such as `<|im_end|>`, and the tags of our formats
are broken up by a space in all that is said; in a reply only the tokens, because its tags are the model's own.

Loading what is talked to: a model, or a base model and a LoRA adapter that was trained on it.

An adapter on another base than its own loads without a word as long as the shapes fit, and talks nonsense. So it is refused
by the name of its base; only where that is a folder that is gone do the shapes have to do.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from empathy_trl.chat.reply import TAGS
from empathy_trl.data import CORPORA, corpus
from empathy_trl.data.base import Corpus
from empathy_trl.errors import UserError
from empathy_trl.io import is_hub_id
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
from empathy_trl.models.load import load_model
from empathy_trl.recipe.layers import RECIPE_FILE
from empathy_trl.recipe.stages import RUN_FILE
from empathy_trl.tags import tag_marks
from empathy_trl.text import clean

Messages = list[dict[str, str]]

# words that some chat templates, and no tokenizer, treat as control
TEMPLATE_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[CONTEXT]", "[KNOWLEDGE]", "EOS")
_TAGS = re.compile(rf"<(?=/?\s*(?:{'|'.join(TAGS)})\s*>)", flags=re.IGNORECASE)


@dataclass(frozen=True)
class Prompts:
    """Makes prompts for one model.

    Attributes:
        name: `data.name` of the recipe, or "chat" for a plain one.
        data: the `data` section of the recipe.
        system: message of a plain chat; None for none.
        control: texts that must not come from anybody's words, see `control_texts`.
    """

    name: str = "chat"
    data: dict = field(default_factory=dict)
    system: str | None = None
    control: tuple[str, ...] = ()

    @property
    def corpus(self) -> Corpus | None:
        """The corpus that the model was trained on; None for a plain chat."""
        if self.name in CORPORA or self.data.get("builder"):
            return corpus(self.name, self.data.get("builder"))
        return None

    @property
    def expects(self) -> tuple[str, ...]:
        """Tags that a reply has to have; empty where any reply will do."""
        return self.corpus.reply_tags if self.corpus else ()

    def messages(self, history: Messages) -> Messages:
        """Return the messages of a prompt.

        Args:
            history: `{"role", "content"}`, user and assistant in turn, the last one the user's; replies as the model wrote them.
        """
        said = [message | {"content": self._as_text(**message)} for message in history]
        if self.corpus:
            return self.corpus.chat_messages(self.data, said)
        return [{"role": "system", "content": self.system}] * (self.system is not None) + said

    def _as_text(self, role: str, content: str) -> str:
        """Return what was said as it stands in a prompt; breaking up comes last, as cleaning may put together what was apart."""
        if role == "user":
            said = _TAGS.sub("< ", _cleaned(content) if self.corpus else content)
        else:
            said = self.corpus.chat_reply(self.data, content) if self.corpus else content
        return break_up(said, self.control)


def break_up(text: str, control: Iterable[str]) -> str:
    """Return a text in which none of the control texts occurs: a space stands behind the first character of each."""
    pattern = re.compile("|".join(re.escape(each) for each in sorted(control, key=len, reverse=True)) or r"(?!)")
    while pattern.search(text):  # one may begin inside another
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def control_texts(tokenizer) -> tuple[str, ...]:
    """Return what steers a model when it stands in a rendered prompt: its special tokens, and marks of its template.

    Args:
        tokenizer: of the model; None for one behind a server, which has its own.
    """
    if tokenizer is None:
        return ("<|", *TEMPLATE_MARKS[:4], "<start_of_turn>", "<end_of_turn>")
    added = tokenizer.added_tokens_decoder.values()
    # some templates use tokens that are not marked as special
    tokens = {token.content for token in added if token.special or re.fullmatch(r"[<\[]\S+[>\]]", token.content)}
    tokens |= set(tokenizer.all_special_tokens)
    tokens -= {*tag_marks(TAGS), "<movie>"}  # tags are broken up anyway
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    marks = [mark for mark in TEMPLATE_MARKS if re.search(rf"(?<!\w){re.escape(mark)}(?!\w)", template)]
    return tuple(sorted(token for token in [*tokens, *marks] if len(token) > 1 and " " not in token))


def choose_prompts(
    models: list[tuple[str, str | None]],
    recipe: str | None,
    system: str | None,
    control: tuple[str, ...] = (),
    trust_remote_code: bool = False,
) -> Prompts:
    """Return the prompts for a model.

    Args:
        models: (folder or Hub id, revision) where its recipe may lie, the first one first; none for a model behind a server.
        recipe: path or name, see `find_recipe`; goes before that of the model.
        system: message of a plain chat; goes before all recipes.
        control: see `Prompts`.
        trust_remote_code: see `load_recipe`.

    Raises:
        UserError: both a recipe and a system message; a recipe that cannot be read, or whose data is nothing to talk about.
    """
    if recipe and system is not None:
        raise UserError("--recipe, --system: a recipe has its own system message; expected one of them")
    if system is not None:
        return Prompts(system=system, control=control)
    data = _data_of_recipe(recipe, models, trust_remote_code) if recipe else _data_beside(models)
    if data is None:
        return Prompts(control=control)
    return Prompts(name=data["name"], data=data, control=control)


def _data_of_recipe(name: str, models: list[tuple[str, str | None]], trust_remote_code: bool) -> dict:
    """Return the data section of a recipe: of the stage that is called like the model's folder, else of the last to talk to."""
    from empathy_trl.recipe import load_recipe

    stages = load_recipe(name, training=False, trust_remote_code=trust_remote_code).resolved()["stages"]
    return _choose(f"--recipe {name}", stages, Path(models[0][0]).name if models else None)


def _data_beside(models: list[tuple[str, str | None]]) -> dict | None:
    """Return the data section of the recipe that a training left in the model's folder; None where there is none."""
    from empathy_trl.recipe.layers import read_yaml

    for name, revision in models:
        path = _file_of(name, revision, RECIPE_FILE)
        if path is None:
            continue
        stages = read_yaml(path).get("stages")
        if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
            raise UserError(f"{path}: has no stages; expected the recipe of a training, or another one by --recipe")
        data = _choose(str(path), stages, _stage_in(name, revision, path))
        if data.get("builder") is not None and not Path(expand(name)).is_dir():
            raise UserError(
                f"{name}: data.builder: its recipe names code, {data['builder']}, which is not run for a model from the Hub; "
                "give a recipe of yours with --recipe, or chat plainly with --system TEXT"
            )
        return data
    return None


def _stage_in(name: str, revision: str | None, recipe: Path) -> str:
    """Return the stage that a model is of: run.json beside its recipe says it, else the folder is called like it."""
    try:
        record = json.loads(_file_of(name, revision, RUN_FILE).read_text(encoding="utf-8"))
        return str(record["stage"])
    except (AttributeError, OSError, ValueError, KeyError, TypeError):  # none, or not of a training
        return recipe.absolute().parent.name


def _file_of(name: str, revision: str | None, filename: str) -> Path | None:
    """Return a file of a folder (of a checkpoint: of the folder above) or a Hub repository, if it has one."""
    from huggingface_hub.errors import EntryNotFoundError

    from empathy_trl.models.hub_files import expand, first_file, hub_errors

    folder = Path(expand(name))
    if folder.is_dir():
        places = [folder, folder.absolute().parent] if folder.name.startswith("checkpoint-") else [folder]
        return next((place / filename for place in places if (place / filename).is_file()), None)
    try:
        with hub_errors(name, revision):
            try:
                return first_file(name, revision, [filename])
            except EntryNotFoundError:
                return None
    except UserError:  # whoever loads the model says it better
        return None


def _choose(source: str, stages: dict, name: str | None) -> dict:
    talking = {key: stage["data"] for key, stage in stages.items() if _talks(stage)}
    if not talking:
        fitting = ", ".join(name for name in CORPORA if corpus(name).talks)
        raise UserError(
            f"{source}: no stage of it trains a model to talk to (data.name: {fitting}); choose another recipe with "
            "--recipe, or chat plainly with --system TEXT"
        )
    return talking.get(name) or list(talking.values())[-1]


def _talks(stage: dict) -> bool:
    data = stage.get("data")
    if not isinstance(data, dict) or stage.get("task") not in ("sft", "grpo", "ppo"):
        return False
    return data.get("builder") is not None or data.get("name") in CORPORA


def _cleaned(text: str) -> str:
    """Return a text as data builders clean it, unless nothing would be left."""
    return clean(text) or text


WEIGHTS = "adapter_model.safetensors"


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
    base = check_adapter(adapter, name) if adapter else None
    model, tokenizer = load_model(name, revision=revision, load_in_4bit=load_in_4bit)
    if adapter:
        if isinstance(model, PeftModel):
            raise UserError(f"--adapter: --model {name} is an adapter itself; expected its base, or no --adapter")
        model = _adapted(model, adapter, base, name)
        place = split_revision(expand(adapter))
        tokenizer = load_tokenizer(*tokenizer_of_adapter(*place, name, revision), padding_side="left")
        tokenizer.chat_template = tokenizer.chat_template or load_tokenizer(name, revision).chat_template
    if torch.cuda.is_available() and not load_in_4bit:
        model.to("cuda")
    return model, tokenizer


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
        raise UserError(f"--adapter {error}") from error
    if is_same(base, expand(model)) is False:
        raise _other_base(adapter, base, model)
    return base


def is_same(base: str, model: str) -> bool | None:
    """Whether two names mean the same model; None where that cannot be told, because a folder is gone.

    Args:
        base: folder or Hub id that an adapter names.
        model: folder or Hub id that the user named.
    """
    if base == model:
        return True
    if Path(base).is_dir() and Path(model).is_dir():
        return Path(base).resolve() == Path(model).resolve()
    if Path(base).is_dir() or Path(model).is_dir():
        folder, other = (base, model) if Path(base).is_dir() else (model, base)
        if not is_hub_id(other):
            return None
        # a copy of what the id means is called like it, in the Hub's cache too
        return Path(folder).name == other.rpartition("/")[2] or f"models--{other.replace('/', '--')}" in folder
    return False if is_hub_id(base) else None


def _adapted(model, adapter: str, base: str, name: str):
    """Return the model with the adapter on it; UserError if its weights are not for this model."""
    path, revision = split_revision(expand(adapter))
    with hub_errors(path, revision):
        weights = first_file(path, revision, [WEIGHTS, "adapter_model.bin"])
        try:
            adapted = PeftModel.from_pretrained(model, path, revision=revision, is_trainable=False)
        except (RuntimeError, ValueError, KeyError) as error:  # other shapes, or none of its layers
            raise _other_base(adapter, base, name) from error
    if weights.name == WEIGHTS:
        with hub_errors(path, revision), safe_open(weights, framework="pt") as file:
            stored = {key for key in file.keys() if "lora_" in key}  # noqa: SIM118 - it is no mapping
        loaded = get_peft_model_state_dict(adapted, save_embedding_layers=False)  # else it asks the Hub for the base
        if stored != {key for key in loaded if "lora_" in key}:  # peft leaves out what finds no place
            raise _other_base(adapter, base, name)
    return adapted


def _other_base(adapter: str, base: str, model: str) -> UserError:
    return UserError(
        f"--adapter {adapter}: was trained on {base}, and --model is {model}; expected that base, or an adapter for this model"
    )

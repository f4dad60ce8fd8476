"""The prompts of a chat: from a conversation to the prompt format that the model was trained with.

`choose_prompts` finds the recipe that trained the model: `recipe.yaml` in its folder, or the recipe that the user
names. The corpus of the recipe defines how a conversation becomes a prompt (`Prompts`). Without a recipe, the prompt is
the plain conversation, after the user's system message if there is one.

User input is text only. Special tokens, such as `<|im_end|>`, are broken up with a space in all messages, and the tags
of our formats in the user's messages.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError

from empathy_trl.chat.reply import MARKS, TAGS
from empathy_trl.data import CORPORA, corpus
from empathy_trl.data.base import Corpus
from empathy_trl.errors import UserError
from empathy_trl.io import json_or_none, user_name
from empathy_trl.models.hub_files import first_file, hub_errors
from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.layers import RECIPE_FILE, read_yaml
from empathy_trl.recipe.provenance import RUN_FILE
from empathy_trl.tags import THOUGHT, without_thoughts
from empathy_trl.text import clean

Messages = list[dict[str, str]]

# control texts of some chat templates that are no tokens
TEMPLATE_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[CONTEXT]", "[KNOWLEDGE]", "EOS")
_TAGS = re.compile(rf"<(?=/?\s*(?:{'|'.join([*TAGS, THOUGHT])})\s*>)|\[(?=/?\s*{THOUGHT}\s*\])", flags=re.IGNORECASE)


@dataclass(frozen=True)
class Prompts:
    """Makes prompts for one model.

    Attributes:
        name: `data.name` of the recipe; "chat" for a plain conversation.
        data: the `data` section of the recipe.
        system: system message of a plain conversation; None for none.
        control: texts that are broken up in what was said, see `control_texts`.
        pass_thoughts: give a plain conversation to the chat template with the model's thoughts, which it keeps or drops. The
            prompts of a corpus have none, as in its training.
        chat_template: `model.chat_template` of the recipe, for a model that has no template itself.
        template_arguments: `model.chat_template_kwargs` of the recipe.
    """

    name: str = "chat"
    data: dict = field(default_factory=dict)
    system: str | None = None
    control: tuple[str, ...] = ()
    pass_thoughts: bool = False
    chat_template: str | None = None
    template_arguments: dict = field(default_factory=dict)

    @property
    def corpus(self) -> Corpus | None:
        """The corpus that the model was trained on; None for a plain chat."""
        if self.name in CORPORA or self.data.get("builder"):
            return corpus(self.name, self.data.get("builder"))
        return None

    @property
    def expects(self) -> tuple[str, ...]:
        """Tags that a reply must have; empty where any reply will do."""
        return self.corpus.reply_tags if self.corpus else ()

    def messages(self, history: Messages) -> Messages:
        """Return the messages of a prompt.

        Args:
            history: `{"role", "content"}`, user and assistant in turn, the last one the user's; replies as the model wrote them.
        """
        turns = [message | {"content": self._as_text(**message)} for message in history]
        if self.corpus:
            return self.corpus.chat_messages(self.data, turns)
        return turns if self.system is None else [{"role": "system", "content": self.system}, *turns]

    def _as_text(self, role: str, content: str) -> str:
        """Return a turn as it stands in a prompt; control is broken up last, as cleaning may join what was apart."""
        if role == "user":
            text = _TAGS.sub(r"\g<0> ", _cleaned(content) if self.corpus else content)
        else:
            text = content if self.pass_thoughts and not self.corpus else without_thoughts(content)
            text = self.corpus.chat_reply(self.data, text) if self.corpus else text
        return break_up(text, self.control)


def break_up(text: str, control: Iterable[str]) -> str:
    """Return a text without the control texts: a space goes behind the first character of each."""
    pattern = re.compile("|".join(re.escape(each) for each in sorted(control, key=len, reverse=True)) or r"(?!)")
    while pattern.search(text):  # one may begin inside another
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def control_texts(tokenizer) -> tuple[str, ...]:
    """Return the texts that steer a model in a rendered prompt: special tokens, and marks of its chat template.

    Args:
        tokenizer: of the model; None behind a server, where the usual ones are taken.
    """
    if tokenizer is None:
        return ("<|", *TEMPLATE_MARKS[:4], "<start_of_turn>", "<end_of_turn>")
    added = tokenizer.added_tokens_decoder.values()
    # some templates use tokens that are not marked as special
    tokens = {token.content for token in added if token.special or re.fullmatch(r"[<\[]\S+[>\]]", token.content)}
    tokens |= set(tokenizer.all_special_tokens)
    tokens -= {*MARKS, "<movie>"}  # tags are broken up anyway
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    marks = [mark for mark in TEMPLATE_MARKS if re.search(rf"(?<!\w){re.escape(mark)}(?!\w)", template)]
    return tuple(sorted(token for token in [*tokens, *marks] if len(token) > 1 and " " not in token))


def choose_prompts(
    models: list[tuple[str, str | None]],
    recipe: str | None,
    system: str | None,
    trust_remote_code: bool = False,
) -> Prompts:
    """Return the prompts for a model, without `control`, which only its tokenizer knows.

    Args:
        models: places where the model's recipe may lie, (folder or Hub id, revision), the likeliest first; none behind a server.
        recipe: path or name of a recipe, see `find_recipe`, in place of the model's own.
        system: system message of a plain conversation, in place of a recipe.
        trust_remote_code: see `load_recipe`.

    Raises:
        UserError: both a recipe and a system message are given; the recipe cannot be read, or trains no model to talk to.
    """
    if recipe and system is not None:
        raise UserError("recipe, system: a recipe has its own system message; expected one of them")
    if system is not None:
        return Prompts(system=system)
    stage = _stage_of_recipe(recipe, models, trust_remote_code) if recipe else _stage_beside(models)
    if stage is None:
        return Prompts()
    model, data = stage.get("model") or {}, stage["data"]
    arguments = model.get("chat_template_kwargs") or {}
    return Prompts(data["name"], data, chat_template=model.get("chat_template"), template_arguments=arguments)


def _stage_of_recipe(name: str, models: list[tuple[str, str | None]], trust_remote_code: bool) -> dict:
    """Return the section of the stage that has the name of the model's folder, else of the last stage that talks."""
    stages = load_recipe(name, training=False, trust_remote_code=trust_remote_code).resolved()["stages"]
    return _choose(f"recipe {name}", stages, Path(models[0][0]).name if models else None)


def _stage_beside(models: list[tuple[str, str | None]]) -> dict | None:
    """Return the section of the stage in the recipe that a training left in the model's folder; None where there is none."""
    for name, revision in models:
        path = _file_of(name, revision, RECIPE_FILE)
        if path is None:
            continue
        stages = read_yaml(path).get("stages")
        if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
            raise UserError(f"{path}: has no stages; expected the recipe of a training; name another `recipe`")
        stage = _choose(str(path), stages, _stage_in(name, revision, path))
        if (builder := stage["data"].get("builder")) is not None and not Path(user_name(name)).is_dir():
            raise UserError(
                f"{name}: data.builder: its recipe imports Python code, {builder}, which is not run for a model from the Hub; "
                "name your own `recipe`, or give a `system` message for a plain chat"
            )
        return stage
    return None


def _stage_in(name: str, revision: str | None, recipe: Path) -> str:
    """Return the name of the stage that trained a model: from run.json beside its recipe, else from the folder."""
    file = _file_of(name, revision, RUN_FILE)
    record = (json_or_none(file) if file else None) or {}  # no such file, or another's
    return str(record["stage"]) if "stage" in record else recipe.absolute().parent.name


def _file_of(name: str, revision: str | None, filename: str) -> Path | None:
    """Return a file of a folder (of a checkpoint: of the folder above) or a Hub repository, if it has one."""
    folder = Path(user_name(name))
    if folder.is_dir():
        places = [folder, folder.absolute().parent] if folder.name.startswith("checkpoint-") else [folder]
        return next((place / filename for place in places if (place / filename).is_file()), None)
    try:
        with hub_errors(name, revision):
            try:
                return first_file(name, revision, [filename])
            except EntryNotFoundError:
                return None
    except UserError:  # loading the model reports it better
        return None


def _choose(source: str, stages: dict, name: str | None) -> dict:
    """Return the section of the stage of this name if its model talks, else of the last whose does."""
    talking = {key: stage for key, stage in stages.items() if _talks(stage)}
    if not talking:
        fitting = ", ".join(name for name in CORPORA if corpus(name).talks)
        raise UserError(
            f"{source}: no stage trains a model for chat (data.name: {fitting}); name another "
            "`recipe`, or give a `system` message for a plain chat"
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

"""From what was said to the messages a model was trained on.

Which those are says the recipe that trained it: `recipe.yaml` in the model's folder, or `--recipe`. A model without one is
talked to plainly, with the system message the user gives, or none.

What a user types is text and stays text: tokens that steer a chat template, such as `<|im_end|>`, and the tags of our formats
are broken up by a space in all that is said; in a reply only the tokens, because its tags are the model's own.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from empathy_trl.chat.reply import REASONED, TAGS
from empathy_trl.data.text import clean
from empathy_trl.errors import UserError
from empathy_trl.parts import PARTS, without_reflection
from empathy_trl.recipe.yaml_io import RECIPE_FILE
from empathy_trl.stages import RUN_FILE
from empathy_trl.tags import reply_text, tag_marks

Messages = list[dict[str, str]]

# words that some chat templates, and no tokenizer, treat as control
TEMPLATE_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[CONTEXT]", "[KNOWLEDGE]", "EOS")
_TAGS = re.compile(rf"<(?=/?\s*(?:{'|'.join(TAGS)})\s*>)", flags=re.IGNORECASE)


def _empath(data: dict, history: Messages) -> Messages:
    from empathy_trl.data.empath import SYSTEM  # not at the top: each system is loaded when it is talked to

    return [{"role": "system", "content": data.get("instruction") or SYSTEM}, *history]


def _dialogues(data: dict, history: Messages) -> Messages:
    from empathy_trl.data.dialogues import INSTRUCTION, make_prompt

    return make_prompt([message["content"] for message in history], data.get("instruction") or INSTRUCTION)


def _redial(data: dict, history: Messages) -> Messages:
    from empathy_trl.data.redial import make_prompt

    roles = {"user": "seeker", "assistant": "recommender"}
    turns = [(roles[message["role"]], message["content"]) for message in history]
    return make_prompt(turns, data.get("slots", "placeholder"))


def _wassa(data: dict, history: Messages) -> Messages:
    from empathy_trl.data.wassa_replies import make_prompt

    return make_prompt(history[-1]["content"])


def _ed4(data: dict, history: Messages) -> Messages:
    from empathy_trl.data.ed4 import make_prompt

    return make_prompt(history[-1]["content"])


# `data.name` -> (data section, history that ends with the user) -> messages
SYSTEMS: dict[str, Callable[[dict, Messages], Messages]] = {
    "empath": _empath,
    "dialogues": _dialogues,
    "redial": _redial,
    "wassa": _wassa,
    "ed4": _ed4,
}
# the tags that a system's replies have to have
EXPECTS = {"empath": PARTS, "wassa": REASONED, "ed4": REASONED}


@dataclass(frozen=True)
class Prompts:
    """Makes prompts for one model.

    Attributes:
        name: a key of `SYSTEMS`, or "chat" for a plain one.
        data: the `data` section of the recipe.
        system: message of a plain chat; None for none.
        control: texts that must not come from anybody's words, see `control_texts`.
    """

    name: str = "chat"
    data: dict = field(default_factory=dict)
    system: str | None = None
    control: tuple[str, ...] = ()

    @property
    def expects(self) -> tuple[str, ...]:
        """Tags that a reply has to have; empty where any reply will do."""
        return EXPECTS.get(self.name, ())

    def messages(self, history: Messages) -> Messages:
        """Return the messages of a prompt.

        Args:
            history: `{"role", "content"}`, user and assistant in turn, the last one the user's; replies as the model wrote them.
        """
        said = [message | {"content": self._as_text(**message)} for message in history]
        if self.name in SYSTEMS:
            return SYSTEMS[self.name](self.data, said)
        return [{"role": "system", "content": self.system}] * (self.system is not None) + said

    def _as_text(self, role: str, content: str) -> str:
        """Return what was said as it stands in a prompt; breaking up comes last, as cleaning may put together what was apart."""
        if role == "user":
            said = _TAGS.sub("< ", _cleaned(content) if self.name in SYSTEMS else content)
        elif self.name in ("dialogues", "redial"):
            said = _cleaned(reply_text(content) or content)
        elif self.name == "empath" and self.data.get("reflections") == "drop":
            said = without_reflection(content)
        else:
            said = content
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
    trusted: bool = False,
) -> Prompts:
    """Return the prompts for a model.

    Args:
        models: (folder or Hub id, revision) where its recipe may lie, the first one first; none for a model behind a server.
        recipe: path or name, see `find_recipe`; goes before that of the model.
        system: message of a plain chat; goes before all recipes.
        control: see `Prompts`.
        trusted: see `load_recipe`.

    Raises:
        UserError: both a recipe and a system message; a recipe that cannot be read, or whose data is nothing to talk about.
    """
    if recipe and system is not None:
        raise UserError("--recipe, --system: a recipe has its own system message; expected one of them")
    if system is not None:
        return Prompts(system=system, control=control)
    data = _data_of_recipe(recipe, models, trusted) if recipe else _data_beside(models)
    if data is None:
        return Prompts(control=control)
    return Prompts(name=data["name"], data=data, control=control)


def _data_of_recipe(name: str, models: list[tuple[str, str | None]], trusted: bool) -> dict:
    """Return the data section of a recipe: of the stage that is called like the model's folder, else of the last to talk to."""
    from empathy_trl.recipe import load_recipe
    from empathy_trl.tasks import CONFIG_CLASSES

    stages = load_recipe(name, [], CONFIG_CLASSES, trusted).resolved()["stages"]
    return _choose(f"--recipe {name}", stages, Path(models[0][0]).name if models else None)


def _data_beside(models: list[tuple[str, str | None]]) -> dict | None:
    """Return the data section of the recipe that a training left in the model's folder; None where there is none."""
    from empathy_trl.recipe.yaml_io import read_yaml

    for name, revision in models:
        path = _file_of(name, revision, RECIPE_FILE)
        if path is None:
            continue
        stages = read_yaml(path).get("stages")
        if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
            raise UserError(f"{path}: has no stages; expected the recipe of a training, or another one by --recipe")
        return _choose(str(path), stages, _stage_in(name, revision, path))
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

    from empathy_trl.hub import expand, first_file, hub_errors

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
        raise UserError(
            f"{source}: no stage of it trains a model to talk to (data.name: {', '.join(SYSTEMS)}); choose another recipe with "
            "--recipe, or chat plainly with --system TEXT"
        )
    return talking.get(name) or list(talking.values())[-1]


def _talks(stage: dict) -> bool:
    data = stage.get("data")
    return isinstance(data, dict) and data.get("name") in SYSTEMS and stage.get("task") in ("sft", "grpo", "ppo")


def _cleaned(text: str) -> str:
    """Return a text as data builders clean it, unless nothing would be left."""
    return clean(text) or text

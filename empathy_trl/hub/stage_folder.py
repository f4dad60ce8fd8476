"""Reading a stage's folder, the only source of a model card; `text` and `code` escape its content for Markdown.

Names, paths and parameters come from other people's recipes. `text` and `code` show them unchanged on one line, escaped
so that they cannot start a heading, a table cell, a link or HTML. Tokens, local folders and server addresses are left
out.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from empathy_trl.errors import UserError
from empathy_trl.evaluation.base import eval_path
from empathy_trl.evaluation.compare import SEEDS_FILE, is_seed
from empathy_trl.hub.results import to_results
from empathy_trl.io import json_or_none, on_hub, read_json
from empathy_trl.models.hub_files import ADAPTER_FILE
from empathy_trl.recipe.layers import LABEL_TASKS, RECIPE_FILE, read_yaml, stage_of
from empathy_trl.recipe.provenance import RUN_FILE
from empathy_trl.text import MARKDOWN, mask

SPLITS = ("test", "valid", "train")  # in the order of a reader's interest


@dataclass(frozen=True)
class StageFiles:
    """A stage's folder as read.

    Attributes:
        folder: the folder.
        name: the name of the stage.
        recipe: content of `recipe.yaml`.
        record: content of `run.json`.
        evaluations: split -> content of `eval_<split>.json`, for the files that can be read.
        unreadable: names of the evaluation files that cannot be read.
        config: content of the model's `config.json`; empty where it is missing, as beside an adapter.
        adapter: content of `adapter_config.json`; None where it is missing.
    """

    folder: Path
    name: str
    recipe: dict
    record: dict
    evaluations: dict[str, dict]
    unreadable: list[str]
    config: dict
    adapter: dict | None

    @property
    def stage(self) -> dict:
        """The stage's part of the recipe."""
        return self.recipe["stages"][self.name]

    @property
    def task(self) -> str:
        return self.stage["task"]

    @property
    def data(self) -> dict:
        return self.stage["data"]

    @property
    def scores_texts(self) -> bool:
        """Whether the model has a head for ratings or labels, instead of writing text."""
        return self.task in LABEL_TASKS

    @property
    def is_pairwise(self) -> bool:
        """Whether the model learned which of two replies is better."""
        return self.task == "regress" and (self.stage.get("trainer") or {}).get("objective") == "pairwise"

    @property
    def base(self) -> str | None:
        """The Hub id of the model that the first stage started from; None where that is not on the Hub."""
        return hub_id(origin(self.recipe, self.name).get("name_or_path"))

    @property
    def from_scratch(self) -> bool:
        return origin(self.recipe, self.name).get("from_scratch") is not None

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds a LoRA adapter; training merges that of a model with a head."""
        return not self.scores_texts and (
            self.adapter is not None or (not self.config and bool(self.stage["model"].get("lora")))
        )

    @property
    def local_base(self) -> str | None:
        """The local folder of the adapter's base, a merged or trained model of an earlier stage; None for the original model."""
        below = (self.adapter or {}).get("base_model_name_or_path")
        known = (None, self.base, origin(self.recipe, self.name).get("name_or_path"))
        return None if below in known or hub_id(below) else below

    def lora_rank(self, name: str) -> int | None:
        """Return the rank of the adapter that a stage trained, from its model if available, else from the recipe."""
        stage = self.recipe["stages"][name]
        adapter = self.adapter if name == self.name else json_or_none(self.folder.parent / name / ADAPTER_FILE)
        if adapter is not None and stage.get("task") not in LABEL_TASKS:
            return adapter.get("r")
        return ((stage.get("model") or {}).get("lora") or {}).get("r")

    @property
    def is_encoder_decoder(self) -> bool:
        if self.adapter is not None:
            return self.adapter.get("task_type") == "SEQ_2_SEQ_LM"
        start = origin(self.recipe, self.name)
        scratch = start.get("from_scratch") or {}
        named = scratch.get("architecture") == "t5" or start.get("chat_template") == "godel"
        return not self.scores_texts and bool(self.config.get("is_encoder_decoder", named))

    def over_seeds(self, evaluation: dict) -> tuple[list[int], dict[str, dict]]:
        """Return the seeds of the run that this stage is one of, and metric -> figure over them, as `seeds.json` has it.

        Both are empty for a run with one seed, and if the file is broken. Figures of other evaluations than this one are left out.
        """
        run = self.folder.absolute().parent
        content = (json_or_none(run.parent / SEEDS_FILE) if is_seed(run.name) else None) or {}
        seed, metrics = run.name.removeprefix("seed_"), evaluation["metrics"]
        try:
            stage = content.get("stages", {}).get(self.name)
            if stage is None or content["split"] != evaluation["data"]["split"]:
                return [], {}
            figures = {
                name: figure
                for name, figure in stage["metrics"].items()
                if figure["sd"] is not None and name in metrics and figure["values"].get(seed) == metrics[name]["value"]
            }
            return (content["seeds"], figures) if figures else ([], {})
        except (AttributeError, KeyError, TypeError):  # a model that is trained gets its card, whatever lies beside it
            return [], {}

    def has(self, name: str) -> bool:
        """Say whether a file is in the folder."""
        return (self.folder / name).is_file()


def read_stage_files(folder: Path) -> StageFiles:
    """Read a stage's folder; files other than `run.json` and `recipe.yaml` may be missing.

    Raises:
        UserError: the folder is not that of a stage that `run.py` trained.
    """
    record = json_or_none(folder / RUN_FILE)
    if record is None or not (folder / RECIPE_FILE).is_file():
        raise UserError(
            f"{folder}: no {RUN_FILE} and {RECIPE_FILE} that can be read; expected the folder of a trained stage, such as "
            "outputs/<recipe>/<stage>"
        )
    recipe = read_yaml(folder / RECIPE_FILE)
    stages, name = recipe.get("stages"), record.get("stage", folder.name)
    stage = stages.get(name) if isinstance(stages, dict) else None
    if not isinstance(stage, dict) or not all(isinstance(stage.get(key), dict) for key in ("model", "data")):
        raise UserError(
            f"{folder / RECIPE_FILE}: has no stage {name!r} with a task, a model and data, which {RUN_FILE} names"
        )
    evaluations, unreadable = _evaluations(folder)
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    places = [folder, *checkpoints]  # while a stage trains, only its checkpoints hold a model
    config = next(filter(None, (json_or_none(place / "config.json") for place in places)), {})
    adapter = next(filter(None, (json_or_none(place / ADAPTER_FILE) for place in places)), None)
    return StageFiles(folder, name, recipe, record, evaluations, unreadable, config, adapter)


def _evaluations(folder: Path) -> tuple[dict[str, dict], list[str]]:
    found, unreadable = {}, []
    for split in SPLITS:
        path = eval_path(folder, split)
        if not path.is_file():
            continue
        try:
            evaluation = read_json(path)
            to_results(evaluation)
            found[split] = evaluation
        except UserError:
            unreadable.append(path.name)
    return found, unreadable


def lineage(recipe: dict, name: str) -> dict[str, dict]:
    """Return the stages that a stage's weights depend on, itself included and last, by name, in the recipe's order.

    A stage depends on where its model comes from, on the models of its rewards and on the start of its critic.
    """
    stages, wanted, waiting = recipe["stages"], set(), [name]
    while waiting:
        current = waiting.pop()
        if current in wanted or not isinstance(stages.get(current), dict):
            continue
        wanted.add(current)
        stage = stages[current]
        models = [reward.get("model") for reward in (stage.get("rewards") or {}).values() if isinstance(reward, dict)]
        models += [
            (stage.get("model") or {}).get("name_or_path"),
            (stage.get("trainer") or {}).get("critic_name_or_path"),
        ]
        waiting += [parent for parent in map(stage_of, models) if parent is not None]
    return {key: stages[key] for key in stages if key in wanted}


def origin(recipe: dict, name: str) -> dict:
    """Return the `model` section of the stage that the weights of a stage came from first."""
    model, seen = recipe["stages"][name]["model"], {name}
    while (parent := stage_of(model.get("name_or_path"))) in recipe["stages"] and parent not in seen:
        seen.add(parent)
        model = recipe["stages"][parent]["model"]
    return model


def hub_id(name: str | None) -> str | None:
    """Return a name that can only mean a model on the Hub, without its revision; None for a folder or a stage."""
    name = (name or "").partition("@")[0]
    return name if on_hub(name) else None


LONGEST = 120
LOCAL = re.compile(r"(?<![\w.:/])(?:~|\.{1,2}|[A-Za-z]:)?[\\/](?:[^\s'\"]*[\\/])?(?=[^\s'\"])")


def text(value: Any) -> str:
    """Return a value as Markdown that shows it as it is, on one line."""
    return MARKDOWN.sub(lambda found: f"&#{ord(found[0][0])};", one_line(value))


def code(value: Any) -> str:
    """Return a value as inline code that is safe in a table cell."""
    line = one_line(value)
    return f"`{line}`" if line and not re.search(r"[`|\\]", line) else f"<code>{text(line)}</code>"


def one_line(value: Any) -> str:
    """Return a value on one line, without tokens, folders of the machine and addresses of servers; long ones are cut."""
    line = re.sub(r"[\s\x00-\x1f\x7f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069]+", " ", str(value)).strip()
    line = mask(line)
    line = re.sub(r"\w+://\S+", lambda found: _address(found[0]), line)
    line = LOCAL.sub("", line)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def local_name(path: str) -> str:
    """Return the last part of a local path."""
    return Path(path).expanduser().absolute().name


def _address(url: str) -> str:
    """Return an address of the Hub; any other may be a host of a private network, and only the fact that there is one stays."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return url if host == "huggingface.co" and "@" not in url else "(address left out)"


def fenced(source: str, language: str) -> str:
    """Return a block of code, fenced by more backticks than occur in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", source)), default=0))
    return f"{fence}{language}\n{source.strip(chr(10))}\n{fence}"

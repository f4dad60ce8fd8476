"""The sections of a recipe as pydantic models: their keys, with types, defaults and ranges.

The rest of the package receives these classes. `checks` tests whether a folder exists, a reward is known or a trainer
has a field.
"""

import copy
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from empathy_trl.errors import UserError
from empathy_trl.io import is_hub_id
from empathy_trl.models.hub_files import one_revision
from empathy_trl.recipe.layers import LABEL_TASKS, STAGE_KEYS, dump_yaml, stage_of
from empathy_trl.rewards.base import Reward

SAMPLE = "sample"  # `data.path` for the corpus in the package

# task -> `module:Class` of its trainer's config, whose fields are the keys of `trainer:`; imported only where they are read
CONFIG_CLASSES = {
    "sft": "trl:SFTConfig",
    "grpo": "empathy_trl.trainers.grpo:EmpathyGRPOConfig",
    "ppo": "empathy_trl.trainers.ppo:PPOConfig",
    "regress": "empathy_trl.trainers.classify:RegressConfig",
    "classify": "empathy_trl.trainers.classify:LabelConfig",
}


def _is_none(value) -> bool:
    return value is None


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Lora(_Section):
    """Low-rank adapters: the model's own weights stay as they are, small ones beside them are trained."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: list[str] | str = "all-linear"


class FromScratch(_Section):
    """A small model with random weights and a tokenizer trained on the stage's own texts."""

    architecture: Literal["qwen2", "llama", "gemma2", "t5", "roberta"]
    hidden_size: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(4, ge=1)
    vocab_size: int = Field(gt=256)  # every byte is a token
    max_length: int = Field(512, ge=1)  # positions

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.hidden_size % (2 * self.heads):  # rotary positions turn pairs of numbers
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by 2 × heads = {2 * self.heads}")
        return self


class Model(_Section):
    """Where the weights are from: a Hub id, a folder, an earlier stage (`stage:<name>`), nowhere (`from_scratch`).

    `name_or_path: USER/REPO@revision` is taken apart: afterwards the two stand in their own fields.
    """

    name_or_path: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
    load_in_4bit: bool = False
    chat_template: str | None = None  # see `models.templates.set_template`; null: the tokenizer's own
    # left out of a resolved recipe where it is null, so that recipes without it keep their fingerprints
    chat_template_kwargs: dict[str, Any] | None = Field(None, exclude_if=lambda arguments: arguments is None)
    lora: Lora | None = None
    from_scratch: FromScratch | None = None

    @model_validator(mode="after")
    def _one_origin(self):
        if self.name_or_path is None and self.from_scratch is None:
            raise ValueError("has neither name_or_path nor from_scratch; expected one of them")
        if self.name_or_path is not None and self.from_scratch is not None:
            raise ValueError("has both name_or_path and from_scratch; expected one of them")
        if self.from_scratch is not None and self.load_in_4bit:
            raise ValueError("has load_in_4bit, which needs weights to load; expected name_or_path")
        if self.from_scratch is not None and self.lora is not None:
            raise ValueError(
                "has both from_scratch and lora; train all weights of a model from scratch; lora adapts a pretrained one"
            )
        if self.revision is not None and (self.from_scratch or stage_of(self.name_or_path) is not None):
            raise ValueError("has a revision, which only a model on the Hub can have")
        if self.name_or_path is not None:
            self.name_or_path, self.revision = one_revision(self.name_or_path, self.revision)
        return self


class Normalize(_Section):
    """Which steps of `empathy_trl.text.normalize` are applied to a text."""

    nfkc: bool = True
    urls: bool = True
    emails: bool = True
    mentions: bool = True
    hashtags: bool = True
    control: bool = True
    whitespace: bool = True


class Data(_Section):
    """Which corpus, from where, and how much of it.

    Attributes:
        name: a key of `empathy_trl.data.CORPORA`, or with a `builder` what results call the data.
        builder: `package.module:Class` of a corpus from outside the package, a subclass of `empathy_trl.data.Corpus`.
        path: `sample` (the corpus in the package), a local folder or a Hub id.
        portion: share of the training split that the stage sees, from (0) to (1).
        max_words: longer texts lose their beginning.
        text_column: of rated texts; by default found among the usual names.
        split_by: `given` takes the files of a folder; `row` and `conversation` split a single file 90/10.
        ranges: rating -> its lowest and highest value; by default those of the corpus.
        instruction: of dialogues: what the system message asks for.
        reflections: whether the assistant's earlier reflections stand in a prompt of EMPATH.
        normalize: how rated texts are normalised.
        slots: what stands for a film in ReDial's dialogues, `<movie>` or its title.
        context_tokens: words and punctuation marks of a dialogue before the reply; the oldest turns go.
        reply_tokens: words and punctuation marks of a reply; its end goes.
        emotions: a table with the emotions of ReDial's seekers, see `empathy_trl.data.redial`.
    """

    name: str
    path: str = SAMPLE
    # left out of a resolved recipe where it is null, so that recipes without one keep their fingerprints
    builder: str | None = Field(None, exclude_if=lambda builder: builder is None)
    revision: str | None = None
    on_bad_rows: Literal["error", "drop"] = "error"
    portion: tuple[float, float] = (0.0, 1.0)
    max_words: int = Field(400, ge=1)
    text_column: str | None = None
    split_by: Literal["given", "row", "conversation"] = "given"
    ranges: dict[str, tuple[float, float]] | None = None
    instruction: str | None = None
    reflections: Literal["keep", "drop"] = "keep"
    normalize: Normalize = Normalize()
    slots: Literal["placeholder", "title"] = "placeholder"
    context_tokens: int = Field(150, ge=1)
    reply_tokens: int = Field(150, ge=1)
    emotions: str | None = None

    @model_validator(mode="after")
    def _portion_is_a_range(self):
        low, high = self.portion
        if not 0 <= low < high <= 1:
            raise ValueError(f"portion [{low}, {high}] is not a range with 0 <= low < high <= 1")
        for name, (low, high) in (self.ranges or {}).items():
            if not low < high:
                raise ValueError(f"ranges.{name} [{low}, {high}] is not a range with low < high")
        return self


class Classifiers(_Section):
    """Models that judge replies in an evaluation: folders, Hub ids, or `stage:<name>`."""

    epitome: str | None = None
    emotion: str | None = None
    intent: str | None = None


class Evaluation(_Section):
    """How the stage's model is evaluated when it is trained.

    `limit` is a number of rows, `temperature` 0 is greedy, and a `batch_size` of null as many prompts as memory holds.
    `untrained` also evaluates a pretrained model before the training, to show what the training changes.

    With `every`, the model is also evaluated while it is trained, see `evaluation.held_out`: every so many optimizer steps, on
    `rows` rows of the split `valid` (null: all). The training then ends with the checkpoint that has the best figure `best`, and
    before its last step after `patience` evaluations in a row without a new best one.
    """

    split: Literal["train", "valid", "test"] = "test"
    batch_size: int | None = Field(None, ge=1)
    max_new_tokens: int = Field(300, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)
    classifiers: Classifiers | None = None
    bertscore: str | None = Field(None, min_length=1)
    # left out of a resolved recipe where it is false, so that finished evaluations of recipes without it stay valid
    untrained: bool = Field(False, exclude_if=lambda untrained: not untrained)
    every: int | None = Field(None, ge=1, exclude_if=_is_none)
    rows: int | None = Field(None, ge=1, exclude_if=_is_none)
    best: str | None = Field(None, min_length=1, exclude_if=_is_none)
    patience: int | None = Field(None, ge=1, exclude_if=_is_none)

    @model_validator(mode="after")
    def _off_without_every(self):
        # `--evaluation.every null` switches all of it off; without the key, `checks` refuses the others
        if self.every is None:
            self.rows = self.best = self.patience = None
        return self


class Hub(_Section):
    """Where the trained model is pushed to; given at the top level of a recipe, it is for the last stage's model.

    Attributes:
        private: of a repository that the push makes; one that is there and public is refused.
        push: when the run is over, or also every checkpoint that the trainer saves.
        merge_adapter: push an adapter and its base as one model; checkpoints go up as adapters.
    """

    repo_id: str
    private: bool = False
    push: Literal["end", "every_save"] = "end"
    merge_adapter: bool = False

    @model_validator(mode="after")
    def _is_a_hub_id(self):
        if not is_hub_id(self.repo_id):
            raise ValueError(f"repo_id {self.repo_id!r} is not a Hub id; expected name or user/name")
        return self


class Stage(_Section):
    """One training: a task, a model, data, and the trainer's settings."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    task: str
    model: Model
    data: Data
    rewards: dict[str, Reward] = {}
    trainer: dict[str, Any] = {}
    evaluation: Evaluation = Evaluation()
    hub: Hub | None = None
    seed: int = Field(42, ge=0, lt=2**32)

    @property
    def is_pairwise(self) -> bool:
        """Whether it learns which of two replies is better, instead of how good each one is."""
        return self.task == "regress" and self.trainer.get("objective") == "pairwise"

    @property
    def reply_classifiers(self) -> dict[str, str]:
        """Kind -> model of the classifiers that judge its replies; empty for a stage that predicts labels."""
        if self.task in LABEL_TASKS or self.evaluation.classifiers is None:
            return {}
        return {kind: model for kind, model in self.evaluation.classifiers if model is not None}

    def resolved(self) -> dict[str, Any]:
        """Return the stage as it would stand in YAML, with all defaults of the recipe's own keys written out."""
        content = self.model_dump(mode="json", exclude={"name", "rewards", "trainer"})
        content["rewards"] = {name: reward.as_yaml() for name, reward in self.rewards.items()}
        content["trainer"] = copy.deepcopy(self.trainer)
        return {key: content[key] for key in STAGE_KEYS}


class Recipe(_Section):
    """A checked recipe; `name` is the file's stem unless the file says otherwise."""

    name: str
    path: Path
    seed: int
    stages: dict[str, Stage]

    def choose_stage(self, name: str | None) -> Stage:
        """Return the stage that `--stage` names, or the last one.

        Raises:
            UserError: there is none of that name.
        """
        name = name or list(self.stages)[-1]
        if name not in self.stages:
            raise UserError(f"--stage {name}: no such stage in {self.name} (choices: {', '.join(self.stages)})")
        return self.stages[name]

    def resolved(self) -> dict[str, Any]:
        """Return plain data that says everything the recipe does; loading it again gives the same."""
        stages = {name: stage.resolved() for name, stage in self.stages.items()}
        return {"name": self.name, "seed": self.seed, "stages": stages}

    def to_yaml(self) -> str:
        """Return `resolved()` as YAML."""
        return dump_yaml(self.resolved())


CLASSIFIERS_KEY = "evaluation.classifiers"
# key -> the recipe that trains such a classifier; with `_tiny` one that needs two CPU cores
RECIPES = {"epitome": "epitome", "emotion": "emotion32", "intent": "intent9"}


def hint(kind: str) -> str:
    """Return how somebody gets a classifier of a kind, a key of `RECIPES`."""
    recipe = RECIPES[kind]
    return (
        f"`empathy-trl run --recipe {recipe}_tiny` trains one in outputs/{recipe}_tiny/classify, "
        f"and {recipe}.yaml a larger one"
    )

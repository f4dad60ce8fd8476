"""The base class of our `evaluate` modules: it checks the rows before `evaluate` stores them.

`evaluate` (0.4.6) checks only the type of the first row. It turns other values into texts (3 becomes "3") and a single text
into one row per character. `Module` refuses such input and names the input and the row.

A module's file imports this module as a whole (`from empathy_trl.evaluation.metrics import module`), because `evaluate` takes
the first metric class in the file's namespace.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value

from empathy_trl.errors import UserError, show
from empathy_trl.evaluation.metrics.bootstrap import mean_figures
from empathy_trl.evaluation.metrics.reply_classifiers import Judged, judge_replies, load_classifiers
from empathy_trl.recipe.schema import CLASSIFIERS_KEY
from empathy_trl.tags import without_thoughts


@dataclass(frozen=True)
class Kind:
    """What a row of an input may be.

    Args:
        words: for messages.
        feature: in which `evaluate` stores it.
        fits: whether a value is one.
        stored: returns a value that fits as it is stored.
    """

    words: str
    feature: Any
    fits: Callable[[Any], bool]
    stored: Callable[[Any], Any] = lambda value: value


def _is_text(value) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_list(value) -> bool:
    return hasattr(value, "__iter__") and hasattr(value, "__len__") and not isinstance(value, (str, bytes, dict))


def _are_numbers(value) -> bool:
    return _is_list(value) and all(isinstance(each, Real) and math.isfinite(each) for each in value)


def _is_conversation(value) -> bool:
    if _is_text(value):
        return True
    messages = _is_list(value) and all(isinstance(turn, dict) and turn.keys() == {"role", "content"} for turn in value)
    return messages and all(_is_text(each) for turn in value for each in turn.values())


def _messages(conversation) -> list[dict]:
    return [{"role": "user", "content": conversation}] if isinstance(conversation, str) else list(conversation)


TEXT = Kind("a text (valid Unicode)", Value("string"), _is_text, without_thoughts)  # as the user reads it
NUMBERS = Kind("a list of finite numbers", [Value("float64")], _are_numbers, lambda value: [float(n) for n in value])
CONVERSATION = Kind(
    "a text, or a list of messages {role, content} with texts",
    [{"role": Value("string"), "content": Value("string")}],
    _is_conversation,
    _messages,
)


def inputs(**kinds: Kind) -> Mapping[str, Kind]:
    """Return the inputs of a module, name -> kind."""
    return MappingProxyType(kinds)


class Module(evaluate.Metric):
    """A metric whose input is checked.

    Attributes:
        inputs: name -> kind; the features of the module.
        summary, source: for `evaluate`'s description and citation.
    """

    inputs: Mapping[str, Kind]
    summary: str
    source: str

    def _info(self):
        rows = "\n".join(f"    {name}: a list with {kind.words} per row." for name, kind in self.inputs.items())
        return evaluate.MetricInfo(
            description=self.summary,
            citation=self.source,
            inputs_description=f"\nInputs:\n{rows}\n",
            features=Features({name: kind.feature for name, kind in self.inputs.items()}),
        )

    def add_batch(self, *, predictions=None, references=None, **more):
        """Add rows: lists of equal length, at least one row.

        Raises:
            UserError: names the input and the row that is not as it should be.
        """
        given = {"predictions": predictions, "references": references, **more}
        unknown = [name for name, values in given.items() if name not in self.inputs and values is not None]
        if unknown:
            raise UserError(f"{unknown[0]}: not an input of {self.name} (its inputs: {', '.join(self.inputs)})")
        rows = {name: _checked(name, given.get(name), kind) for name, kind in self.inputs.items()}
        first, *others = rows
        for name in others:
            if len(rows[name]) != len(rows[first]):
                raise UserError(
                    f"{first} has {len(rows[first])} rows and {name} has {len(rows[name])}; expected the same number"
                )
        super().add_batch(**rows)

    def add(self, *, prediction=None, reference=None, **more):
        """Add a single row; raises what `add_batch` raises."""
        named = {"predictions": prediction, "references": reference, **more}
        self.add_batch(**{name: [value] for name, value in named.items() if value is not None})


def _checked(name: str, values, kind: Kind) -> list:
    """Return the values of an input as they are stored."""
    if not _is_list(values):
        raise UserError(f"{name}: expected a list with {kind.words} per row, got {show(values)}")
    values = list(values)
    if not values:
        raise UserError(f"{name}: has no rows; expected at least one")
    for row, value in enumerate(values):
        if not kind.fits(value):
            raise UserError(f"{name}, row {row}: expected {kind.words}, got {show(value)}")
    return [kind.stored(value) for value in values]


def values(figures: dict[str, dict]) -> dict[str, float]:
    """Return name -> value of metrics `{"value", "low", "high", "n"}`."""
    return {name: figure["value"] for name, figure in figures.items()}


def point_values(names: Sequence[str], statistic: Callable, rows: int) -> dict[str, float]:
    """Return name -> value of statistics (`intervals`) of all rows, without drawing any again."""
    return dict(zip(names, map(float, statistic(np.arange(rows))), strict=True))


LEE = """\
@inproceedings{lee-etal-2022-gpt,
  title = {Does GPT-3 Generate Empathetic Dialogues? A Novel In-Context Example Selection Method and
    Automatic Evaluation Metric for Empathetic Dialogue Generation},
  author = {Lee, Young-Jun and Lim, Chae-Gyun and Choi, Ho-Jin},
  booktitle = {Proceedings of COLING},
  year = {2022},
}
"""


def judged(
    kind: str, model: str, prompts: list[str], replies: list[str], references: list[str], emotions=None
) -> Judged:
    """Return what a classifier says of replies, see `judge_replies`.

    Args:
        kind: epitome, emotion or intent.
        model: folder or Hub id of the classifier.
        prompts, replies, references, emotions: of the same rows; what the kind does not read may be anything.

    Raises:
        UserError: the model cannot be loaded or is no classifier of this kind, or does not know an emotion.
    """
    if not isinstance(model, str) or not model:
        raise UserError(f"model: expected the folder or Hub id of a classifier, got {show(model)}")
    try:
        return judge_replies(load_classifiers({kind: model}), prompts, replies, references, emotions)
    except UserError as error:  # which calls it by its name in a recipe
        raise UserError(str(error).replace(f"{CLASSIFIERS_KEY}.{kind}:", "model:")) from error


def agreement(
    kind: str, model: str, replies: list[str], references: list[str], emotions=None, *, intervals: bool
) -> dict:
    """Return `<metric>` and `<metric>_majority` of a classifier of emotions or intents; arguments as for `judged`."""
    found = judged(kind, model, [], replies, references, emotions)
    majority = {f"{name}_majority": figure for name, figure in found.baselines["majority"].items()}
    figures = mean_figures(found.rows) | majority
    return figures if intervals else values(figures)

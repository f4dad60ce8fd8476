"""Rewards from a regressor or classifier that rates a reply.

| reward | what the model rates |
|---|---|
| `QualityCritic` | a reply, in one or several dimensions of quality |
| `RewardModel` | a reply to the user's turn, with one score |
| `SemanticSimilarity` | how similar a reply is in meaning to the user's turn (textual similarity, STS, by a cross- or bi-encoder) |
| `EmpathyModel` | how empathic a reply is, after human ratings |
| `Epitome` | how strongly a reply shows one of EPITOME's mechanisms of empathy |

EPITOME is from Sharma et al., "A Computational Approach to Understanding Empathy Expressed in Text-Based Mental Health
Support" (EMNLP 2020): emotional reactions, interpretations and explorations, each at level 0 (none), 1 (weak) or 2
(strong).
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.models.label_schema import (
    CLASSIFICATION,
    REGRESSION,
    activation,
    is_bi_encoder,
    label_groups,
    label_names,
    label_range,
    output_index,
    probabilities,
    require,
    sigmoid,
    to_unit,
)
from empathy_trl.rewards.base import ModelReward, check_range, needed_column, utterances, visible_or_none


@dataclass(kw_only=True)
class QualityCritic(ModelReward):
    """The mean of several outputs of a regressor, each brought to [0, 1] by its range of labels (linearly, clipped).

    Range: [0, 1]; an empty reply earns 0. With `pair`, a row without an utterance of the user gets None.

    Args:
        dimensions: names of the outputs; all by default.
        pair: the model reads what the user said last and the reply, instead of the reply alone.
        label_range: [lowest, highest] label of all these outputs, for a model whose config.json has no `label_ranges`.
    """

    dimensions: list[str] | None = None
    pair: bool = False
    label_range: list[float] | None = None

    __name__ = "quality_critic"
    card = "high ratings, by a model of ratings"

    def __post_init__(self):
        super().__post_init__()
        check_range(self.label_range)
        names = self.dimensions
        if names is not None and (not names or len(set(map(str.lower, names))) < len(names)):
            raise UserError(f"dimensions: expected different names, at least one, got {names}")

    def check(self, config) -> None:
        require(config, REGRESSION)
        self._ranges(config)

    def contexts(self, config, prompts, columns):
        if not self.pair:
            return super().contexts(config, prompts, columns)
        return utterances(prompts)

    def text(self, context, reply):
        return (context, reply) if self.pair else reply

    def rewards(self, config, logits, contexts):
        return np.mean([to_unit(logits[:, index], *span) for index, span in self._ranges(config).items()], axis=0)

    def _ranges(self, config) -> dict[int, tuple[float, float]]:
        """Return output -> range of its labels."""
        if self.dimensions is None:
            outputs = range(config.num_labels)
        else:
            outputs = [output_index(config, name) for name in self.dimensions]
        return {index: label_range(config, index, self.label_range) for index in outputs}


@dataclass(kw_only=True)
class RewardModel(ModelReward):
    """The one score of a model that reads the pair of what the user said last and the reply, brought to [0, 1].

    A model of ratings (`objective: regression`): linearly by the range of its labels, clipped. A model of pairs (`objective:
    pairwise`), whose scores have no scale: sigmoid((x - mean) / deviation), with the moments of its scores over the held-out
    replies, which stand in its config.json and stay the same for the whole training: an average reply earns 0.5.

    Range: [0, 1]; an empty reply earns 0. A row without an utterance of the user gets None.

    Args:
        label_range: [lowest, highest] score, for a model whose config.json says neither range nor moments; replaces them.
    """

    label_range: list[float] | None = None

    __name__ = "reward_model"
    card = "a high score, by a model that was trained on rated answers"

    def __post_init__(self):
        super().__post_init__()
        check_range(self.label_range)

    def check(self, config) -> None:
        require(config, REGRESSION)
        if config.num_labels != 1:
            raise UserError(
                f"model: has {config.num_labels} outputs ({', '.join(label_names(config))}); expected one. The mean of several "
                "is the reward quality_critic, one of several empathy_model"
            )
        moments = self._moments(config)
        if moments is None:
            label_range(config, 0, self.label_range)
        elif not moments["std"] > 0:
            raise UserError(
                "model: gave all held-out replies the same score (score_moments in its config.json); train it again"
            )

    def contexts(self, config, prompts, columns):
        return utterances(prompts)

    def text(self, context, reply):
        return context, reply

    def rewards(self, config, logits, contexts):
        scores, moments = logits[:, 0], self._moments(config)
        if moments is None:
            return to_unit(scores, *label_range(config, 0, self.label_range))
        return sigmoid((scores - moments["mean"]) / moments["std"])

    def _moments(self, config) -> dict[str, float] | None:
        """Return mean and deviation of the scores of a model of pairs; None for a model with a range."""
        return None if self.label_range else getattr(config, "score_moments", None)


@dataclass(kw_only=True)
class SemanticSimilarity(ModelReward):
    """The similarity of the user's utterance and the reply, brought to [0, 1] by the model's own scale.

    A cross-encoder reads both texts together. A bi-encoder (recognised by its `modules.json`, see `models/classifier.py`) reads
    them apart and compares their vectors by cosine; a cosine below 0 counts as 0.

    The scale is never guessed from the scores of a batch. It comes from `label_range`, else from the activation
    function in the config of a sentence-transformers cross-encoder (Sigmoid: the probability is the score), else from
    the `label_ranges` of a model of this package; for a cosine, it is [0, 1].

    Range: [0, 1]; an empty reply earns 0. A row without an utterance of the user gets None. The reply that is most
    similar repeats the user: pair it with a reward that a parrot does not earn.

    Args:
        column: of the data, with the user's utterance; by default it is the last one in the prompt.
        dimension: name of the output, for a model with several.
        label_range: [lowest, highest] raw output, for a model whose config does not say it, or cosine, for a bi-encoder whose
            cosines of unrelated texts are far above 0.
    """

    column: str | None = None
    dimension: str | None = None
    label_range: list[float] | None = None

    __name__ = "semantic_similarity"
    card = "nearness in meaning to what the user said, by a model"
    misses = "repeating what was said scores high"

    def __post_init__(self):
        super().__post_init__()
        check_range(self.label_range)

    def check(self, config) -> None:
        if not is_bi_encoder(config):
            require(config, REGRESSION)
        if not self._is_sigmoid(config):
            label_range(config, self._index(config), self.label_range)

    def contexts(self, config, prompts, columns):
        if self.column is None:
            return utterances(prompts)
        return visible_or_none(needed_column(self, columns, self.column))

    def text(self, context, reply):
        return context, reply

    def rewards(self, config, logits, contexts):
        index = self._index(config)
        if self._is_sigmoid(config):
            return sigmoid(logits[:, index])
        return to_unit(logits[:, index], *label_range(config, index, self.label_range))

    def _index(self, config) -> int:
        """Return which output is the similarity."""
        if self.dimension is not None:
            return output_index(config, self.dimension)
        if config.num_labels != 1:
            raise UserError(
                f"dimension: missing; the model has several outputs (choices: {', '.join(label_names(config))})"
            )
        return 0

    def _is_sigmoid(self, config) -> bool:
        """Whether the model's score is the sigmoid of its raw output."""
        return self.label_range is None and activation(config) == "Sigmoid"


CALIBRATIONS = ("range", "zscore_sigmoid", "running")


@dataclass(kw_only=True)
class EmpathyModel(ModelReward):
    """One output of a regressor for the reply, brought to [0, 1].

    Let x be the model's number. The calibrations:

    * `range`: x from the range of the labels, linearly and clipped. A reply earns the same whatever surrounds it.
    * `zscore_sigmoid`: sigmoid(z / T) with the mean and the standard deviation of the batch's replies in this process.
      It repeats the published WASSA system (miladsolo/roberta-lora-wassa-empathy, T = 0.6). A reply's reward depends on
      its neighbours in the batch, of other prompts too, and a policy that gets better all over earns no more.
    * `running`: sigmoid(z / T) with the mean and the variance of all replies seen so far by this object, this batch
      included (Welford's method). It needs no label range, but the reward drifts while the policy learns, depends on
      the order of the data and on the process, and starts anew after a resume.

    Where the deviation is 0, both sigmoids give 0.5. Range: [0, 1]; an empty reply earns 0 in every calibration and
    does not count in the statistics.

    Args:
        dimension: name of the output.
        calibration: see above.
        label_range: [lowest, highest] label, for a model whose config.json has no `label_ranges`; replaces them.
        temperature: T above.
    """

    dimension: str = "Empathy"
    calibration: Literal["range", "zscore_sigmoid", "running"] = "range"
    label_range: list[float] | None = None
    temperature: float = 0.6
    _seen: tuple[int, float, float] = field(default=(0, 0.0, 0.0), init=False, repr=False)

    __name__ = "empathy_model"
    card = "a high rating, by a model of ratings"

    def __post_init__(self):
        super().__post_init__()
        check_range(self.label_range)
        if self.calibration not in CALIBRATIONS:
            raise UserError(f"calibration: unknown {self.calibration!r} (choices: {', '.join(CALIBRATIONS)})")
        if self.temperature <= 0:
            raise UserError(f"temperature: {self.temperature} must be above 0")
        if self.calibration == "range" and self.temperature != EmpathyModel.temperature:
            raise UserError(f"temperature: {self.temperature} has no effect with calibration: range; leave it out")
        if self.calibration != "range" and self.label_range is not None:
            raise UserError(
                f"label_range: {self.label_range} has no effect with calibration: {self.calibration}; leave it out"
            )

    def check(self, config) -> None:
        require(config, REGRESSION)
        index = output_index(config, self.dimension)
        if self.calibration == "range":
            label_range(config, index, self.label_range)

    def rewards(self, config, logits, contexts):
        index = output_index(config, self.dimension)
        scores = logits[:, index].astype(np.float64)
        if self.calibration == "range":
            return to_unit(scores, *label_range(config, index, self.label_range))
        if self.calibration == "zscore_sigmoid":
            mean, deviation = scores.mean(), scores.std()
        else:
            self._seen = add_to_moments(self._seen, scores)
            count, mean, squares = self._seen
            deviation = math.sqrt(squares / count)
        # equal scores differ by rounding in their mean
        z = (scores - mean) / deviation if deviation > 1e-6 else np.zeros_like(scores)
        return sigmoid(z / self.temperature)


def add_to_moments(seen: tuple[int, float, float], values: np.ndarray) -> tuple[int, float, float]:
    """Return (count, mean, sum of squared deviations) after more values; Welford's update (Technometrics 4, 1962)."""
    count, mean, squares = seen
    for value in values.tolist():
        count += 1
        difference = value - mean
        mean += difference / count
        squares += difference * (value - mean)
    return count, mean, squares


@dataclass(kw_only=True)
class Epitome(ModelReward):
    """The expected level of one mechanism, divided by the highest: (p1 + 2 p2) / 2 for the three levels of EPITOME.

    The model reads the pair of what the user said last and the reply. Its groups of labels are the mechanisms, their
    labels the levels in rising order.

    Range: [0, 1]; an empty reply earns 0. A row without an utterance of the user gets None.

    Args:
        mechanism: one of the model's groups, such as `emotional_reactions`, `interpretations` or `explorations`.
    """

    mechanism: str

    __name__ = "epitome"
    card = "a high level of one mechanism of empathy, by a classifier"
    citations = ("sharma2020",)

    def check(self, config) -> None:
        require(config, CLASSIFICATION)
        groups = label_groups(config)
        if self.mechanism not in groups:
            raise UserError(f"mechanism: the model has no group {self.mechanism!r} (choices: {', '.join(groups)})")
        if len(groups[self.mechanism]) < 2:
            raise UserError(f"mechanism: {self.mechanism} has one level in the model; expected two or more")

    def contexts(self, config, prompts, columns):
        return utterances(prompts)

    def text(self, context, reply):
        return context, reply

    def rewards(self, config, logits, contexts):
        shares = probabilities(config, logits)[self.mechanism]
        highest = shares.shape[1] - 1
        return np.minimum(shares @ np.arange(highest + 1) / highest, 1.0)  # rounding

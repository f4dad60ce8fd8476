"""How empathic is the reply, in the eyes of a regressor trained on human ratings?"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.outputs import REGRESSION, label_range, output_index, require, sigmoid, to_unit
from empathy_trl.rewards.model_reward import ModelReward, check_range

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

    def __post_init__(self):
        super().__post_init__()
        check_range(self.label_range)
        if self.calibration not in CALIBRATIONS:
            raise UserError(f"calibration: unknown {self.calibration!r} (choices: {', '.join(CALIBRATIONS)})")
        if self.temperature <= 0:
            raise UserError(f"temperature: {self.temperature} must be above 0")

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

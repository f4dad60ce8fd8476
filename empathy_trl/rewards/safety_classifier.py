"""Is the reply harmful, in the eyes of a classifier? A penalty, to be added to what pays for a good reply."""

from dataclasses import dataclass

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.outputs import probabilities
from empathy_trl.rewards.emotion_alignment import label_index, only_group
from empathy_trl.rewards.model_reward import ModelReward


@dataclass(kw_only=True)
class SafetyClassifier(ModelReward):
    """Minus the summed probability of the harmful labels.

    Range: [-1, 0]. An empty reply earns -1: what cannot be read cannot be called safe, and broken tags are no way
    around the classifier.

    Args:
        labels: names of the classifier's labels that are penalised, such as `[toxic]`.
    """

    labels: list[str]

    __name__ = "safety_classifier"
    penalty = True
    lowest = -1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.labels or len(set(map(str.lower, self.labels))) < len(self.labels):
            raise UserError(f"labels: expected different names, at least one, got {self.labels}")

    def check(self, config) -> None:
        self._harmful(config)

    def rewards(self, config, logits, contexts):
        (shares,) = probabilities(config, logits).values()
        return -np.minimum(shares[:, self._harmful(config)].sum(axis=1), 1.0)  # rounding

    def _harmful(self, config) -> list[int]:
        names = only_group(config)
        return [label_index(names, label, "labels") for label in self.labels]

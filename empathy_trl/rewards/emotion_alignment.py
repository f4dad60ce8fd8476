"""Does the reply fit the user's emotion, in the eyes of a classifier?"""

from dataclasses import dataclass, field

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.outputs import CLASSIFICATION, label_groups, probabilities, require
from empathy_trl.rewards.columns import needed_column
from empathy_trl.rewards.model_reward import ModelReward


@dataclass(kw_only=True)
class EmotionAlignment(ModelReward):
    """The classifier's probability that the reply has a label that fits the user's emotion.

    With a classifier of emotions the fitting label is the emotion itself. `mapping` says what fits where that is
    another one, or where the classifier speaks of something else, such as intents: `{sad: [consoling, sympathizing]}`
    pays for the sum of the two. An emotion that is not in the mapping stands for itself. Upper and lower case are the
    same.

    Range: [0, 1]; an empty reply earns 0. Needs the column `column`; a row without an emotion gets None.

    Args:
        column: of the data, with the user's emotion.
        mapping: emotion -> labels of the model that fit.
    """

    column: str = "emotion"
    mapping: dict[str, list[str]] = field(default_factory=dict)

    __name__ = "emotion_alignment"

    def __post_init__(self):
        super().__post_init__()
        for emotion, labels in self.mapping.items():
            if not labels or len(set(map(str.lower, labels))) < len(labels):
                raise UserError(f"mapping: {emotion} needs labels of the model, all different, got {labels}")

    def check(self, config) -> None:
        labels = only_group(config)
        for emotion, fitting in self.mapping.items():
            for label in fitting:
                label_index(labels, label, f"mapping: of {emotion}")

    def contexts(self, config, prompts, columns):
        labels = only_group(config)
        emotions = needed_column(self, columns, self.column)
        return [None if emotion is None else self._fitting(labels, str(emotion).strip()) for emotion in emotions]

    def rewards(self, config, logits, contexts):
        (shares,) = probabilities(config, logits).values()
        sums = [shares[row, fitting].sum() for row, fitting in enumerate(contexts)]
        return np.minimum(sums, 1.0)  # rounding

    def _fitting(self, labels: list[str], emotion: str) -> list[int]:
        """Return the positions of the labels that fit an emotion."""
        mapping = {key.lower(): fitting for key, fitting in self.mapping.items()}
        fitting = mapping.get(emotion.lower(), [emotion])
        try:
            return [label_index(labels, label, "") for label in fitting]
        except UserError:
            known = f", or an emotion of `mapping`: {', '.join(self.mapping)}" if self.mapping else ""
            raise UserError(
                f"rewards.{self.__name__}.column: the data has the emotion {emotion!r}, and the model has no such label "
                f"(choices: {', '.join(labels)}{known})"
            ) from None


def only_group(config) -> list[str]:
    """Return the labels of a classifier in order.

    Raises:
        UserError: it is none, or has several groups of labels.
    """
    require(config, CLASSIFICATION)
    groups = label_groups(config)
    if len(groups) > 1:
        raise UserError(f"model: has several groups of labels ({', '.join(groups)}); expected a classifier with one")
    return next(iter(groups.values()))


def label_index(labels: list[str], label: str, where: str) -> int:
    """Return the position of a label in any case.

    Raises:
        UserError: begins with `where`.
    """
    lower = [name.lower() for name in labels]
    if label.lower() not in lower:
        raise UserError(f"{where}: the model has no label {label!r} (choices: {', '.join(labels)})")
    return lower.index(label.lower())

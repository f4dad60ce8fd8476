"""How strongly does the reply show one of EPITOME's mechanisms of empathy?

Sharma et al., A Computational Approach to Understanding Empathy Expressed in Text-Based Mental Health Support (EMNLP
2020): emotional reactions, interpretations and explorations, each at level 0 (none), 1 (weak) or 2 (strong).
"""

from dataclasses import dataclass

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.outputs import CLASSIFICATION, label_groups, probabilities, require
from empathy_trl.rewards.model_reward import ModelReward, utterances


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

"""How good is the reply, in the eyes of a regressor with one or several dimensions of quality?"""

from dataclasses import dataclass

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.outputs import REGRESSION, label_range, output_index, require, to_unit
from empathy_trl.rewards.model_reward import ModelReward, check_range, utterances


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

"""Does the reply speak of what the user spoke of? A cross-encoder's semantic textual similarity (STS)."""

from dataclasses import dataclass

from empathy_trl.errors import UserError
from empathy_trl.outputs import (
    REGRESSION,
    activation,
    label_names,
    label_range,
    output_index,
    require,
    sigmoid,
    to_unit,
)
from empathy_trl.rewards.columns import needed_column
from empathy_trl.rewards.model_reward import ModelReward, check_range, utterances, visible_or_none


@dataclass(kw_only=True)
class SemanticSimilarity(ModelReward):
    """The similarity of the user's utterance and the reply, brought to [0, 1] by the model's own scale.

    The scale is never guessed from the scores of a batch. It comes from `label_range`, else from the activation
    function in the config of a sentence-transformers cross-encoder (Sigmoid: the probability is the score), else from
    the `label_ranges` of a model of this package.

    Range: [0, 1]; an empty reply earns 0. A row without an utterance of the user gets None. The reply that is most
    similar repeats the user: pair it with a reward that a parrot does not earn.

    Args:
        column: of the data, with the user's utterance; by default it is the last one in the prompt.
        dimension: name of the output, for a model with several.
        label_range: [lowest, highest] raw output, for a model whose config does not say it.
    """

    column: str | None = None
    dimension: str | None = None
    label_range: list[float] | None = None

    __name__ = "semantic_similarity"

    def __post_init__(self):
        super().__post_init__()
        check_range(self.label_range)

    def check(self, config) -> None:
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

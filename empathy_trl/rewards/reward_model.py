"""How good is the reply to what the user said, in the eyes of a scalar reward model?"""

from dataclasses import dataclass

from empathy_trl.errors import UserError
from empathy_trl.outputs import REGRESSION, label_names, label_range, require, sigmoid, to_unit
from empathy_trl.rewards.model_reward import ModelReward, check_range, utterances


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

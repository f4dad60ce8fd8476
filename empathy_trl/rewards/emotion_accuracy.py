"""Is the answer the right emotion? The reward that the task is about; the others only help it along."""

from dataclasses import dataclass, field

from empathy_trl.errors import UserError
from empathy_trl.rewards.columns import needed_column
from empathy_trl.tags import completion_text, tag_bodies

EMOTIONS = ("sad", "joyful", "angry", "afraid")


@dataclass
class EmotionAccuracy:
    """1 for the right answer, 0 for a wrong one, `invalid` for none.

    The answer is the body of the only `<answer>` tag, compared without regard to case and surrounding space.
    No such tag, several, or a body outside `labels` is invalid. The share of invalid answers is logged as
    `invalid_share`.

    Range: {`invalid`, 0, 1}. Needs the column `label`; a row whose label is None gets None.

    Args:
        labels: the words that may be answered.
        invalid: reward of an invalid answer. Below 0 (say -0.5) it teaches to answer at all sooner.
    """

    labels: list[str] = field(default_factory=lambda: list(EMOTIONS))
    invalid: float = 0.0

    __name__ = "emotion_accuracy"
    tags = ("answer",)

    def __post_init__(self):
        check_labels(self.labels)
        if self.invalid > 0:
            raise UserError(f"invalid: {self.invalid} must not be above 0, the reward of a wrong answer")

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: the data has no column `label`, or one of its values is not among `labels`.
        """
        gold = gold_labels(self, columns)
        answers = [self._answer(completion_text(completion)) for completion in completions]
        if answers and "log_metric" in columns:
            columns["log_metric"]("invalid_share", sum(answer is None for answer in answers) / len(answers))
        return [
            None if label is None else self.invalid if answer is None else float(answer == label)
            for answer, label in zip(answers, gold, strict=True)
        ]

    def _answer(self, text: str) -> str | None:
        """Return the answered label in lower case, None for an invalid answer."""
        bodies = tag_bodies(text, "answer")
        answer = bodies[0].lower() if len(bodies) == 1 else None
        return answer if answer in [label.lower() for label in self.labels] else None


def check_labels(labels: list[str]) -> None:
    """Raise UserError unless there are two different labels or more."""
    if len({label.strip().lower() for label in labels}) < max(2, len(labels)):
        raise UserError(f"labels: expected at least two different words, got {labels}")


def gold_labels(reward, columns: dict) -> list[str | None]:
    """Return the column `label` in lower case, None where a row has none.

    Args:
        reward: has `__name__` and `labels`, the values that may occur.
        columns: the columns of the batch, as TRL passes them to a reward.

    Raises:
        UserError: there is no such column, or a value that is not among the labels.
    """
    labels = needed_column(reward, columns, "label")
    gold = [None if label is None else label.strip().lower() for label in labels]
    unknown = set(gold) - {None} - {label.lower() for label in reward.labels}
    if unknown:
        raise UserError(
            f"rewards.{reward.__name__}.labels: the data has the label {min(unknown)!r} "
            f"(labels: {', '.join(reward.labels)})"
        )
    return gold

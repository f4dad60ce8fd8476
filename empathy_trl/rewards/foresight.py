"""`Foresight`: is the reflection more similar to the user's next turn than to other users' turns?

A reflection is written before the user's next turn, and the data contain that turn. Subtracting the similarity to turns
of users in other dialogues removes what fits every dialogue. Those turns are a column of the data, drawn once for each
row, and not the other rows of the batch. Otherwise the reward of a completion would depend on its batch, and the
rewards within the group of a prompt on other prompts.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from empathy_trl.errors import UserError
from empathy_trl.rewards.base import Reward, needed_column, visible_or_none
from empathy_trl.rewards.learned import SemanticSimilarity
from empathy_trl.tags import REFLECT, part_text, user_text
from empathy_trl.text import content_words, cosine, is_visible, lower_words


@dataclass
class Foresight(Reward):
    """(1 + s) / 2, where s is similarity(reflection, next turn) − mean similarity(reflection, others' turns).

    Similarity is, without a model, the cosine of the sets of content words (`text.py`), in which the words of the
    user's present turn do not count: what was said is not foreseen, and a reflection that repeats it earns 0.5. With
    `model` it is that of `semantic_similarity`, in which repeating pays; pair it with `reflection`, which does not pay for
    that.

    The means are logged as `foresight/next` and `foresight/others`.

    Range: [0, 1]; 0.5 for a reflection that is of no use, 0 where it is missing, broken or empty. A row without a next turn
    or without others' turns gets None. Needs the columns `next_user` (a text or null) and `other_users` (a list of texts).

    Args:
        model: Hub id or folder of a bi-encoder or a cross-encoder, see `semantic_similarity`; by default words are compared.
        revision: branch, tag or commit on the Hub.
        device: where the model is.
        dimension: name of the model's output, if it has several.
        label_range: [lowest, highest] raw output, for a model whose config does not say it.
    """

    model: str | None = None
    revision: str | None = None
    device: str | None = None
    dimension: str | None = None
    label_range: list[float] | None = None

    __name__ = "foresight"
    card = "a thought that has more in common with what the user says next than with what others say"
    misses = "it compares words"
    loads_model = True  # if it is given one, see `ModelReward`
    tags = (REFLECT,)

    def __post_init__(self):
        if self.model is not None:
            self._judge()
            return
        for name in ("revision", "device", "dimension", "label_range"):
            if getattr(self, name) is not None:
                raise UserError(f"{name}: {getattr(self, name)!r} applies to a model, but `model` is not given")

    async def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return what `score` returns, without blocking the other rewards of a step."""
        return await asyncio.to_thread(self.score, prompts, completions, **columns)

    def load(self):
        """Return the shared scorer of the model, which is loaded now if it was not before; None where there is no model.

        Raises:
            UserError: it cannot be loaded, or gives no similarity of two texts.
        """
        return None if self.model is None else self._judge().load()

    def score(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion.

        Raises:
            UserError: the data lacks a column or has something else in it, or the model cannot be used.
            RuntimeError: the model fails.
        """
        following = visible_or_none(self._column(columns, "next_user", "a text", lambda value: isinstance(value, str)))
        others = [
            [turn for turn in turns or [] if is_visible(turn)]
            for turns in self._column(columns, "other_users", "a list of texts", _are_texts)
        ]
        reflections = [part_text(completion, REFLECT) for completion in completions]
        rewards = [None if turn is None or not rest else 0.0 for turn, rest in zip(following, others, strict=True)]
        asked = [row for row, reward in enumerate(rewards) if reward is not None and is_visible(reflections[row])]
        triples = [
            (user_text(prompts[row]), reflections[row], turn)
            for row in asked
            for turn in (following[row], *others[row])
        ]
        similar = iter(_lexical(triples) if self.model is None else self._judged(triples, columns))
        near, far = [], []
        for row in asked:
            near.append(next(similar))
            far.append(fmean(next(similar) for _ in others[row]))
            rewards[row] = (1 + near[-1] - far[-1]) / 2
        if asked and columns.get("log_metric") is not None:
            columns["log_metric"](f"{self.__name__}/next", fmean(near))
            columns["log_metric"](f"{self.__name__}/others", fmean(far))
        return rewards

    def _column(self, columns: dict, name: str, expected: str, is_right: Callable) -> list:
        """Return a column whose values are None or right."""
        values = needed_column(self, columns, name)
        for value in values:
            if value is not None and not is_right(value):
                raise UserError(f"rewards.{self.__name__}: `{name}` holds {value!r}; expected {expected} or null")
        return values

    def _judge(self) -> SemanticSimilarity:
        """Return the reward that compares a text with the column `turn`; its model is shared and loaded once."""
        judge = SemanticSimilarity(
            model=self.model,
            revision=self.revision,
            device=self.device,
            dimension=self.dimension,
            label_range=self.label_range,
            column="turn",
            reply_tags=[],
        )
        judge.__name__ = self.__name__  # for messages and metrics
        return judge

    def _judged(self, triples: list[tuple[str, str, str]], columns: dict) -> list[float]:
        """Return the model's similarity of each reflection and turn."""
        log = {"log_metric": columns.get("log_metric")}
        _, reflections, turns = zip(*triples, strict=True) if triples else ((), (), ())
        return self._judge().score([""] * len(triples), list(reflections), turn=list(turns), **log)


def _are_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _lexical(triples: list[tuple[str, str, str]]) -> list[float]:
    """Return the similarity of each reflection and turn in content words, without those of the present turn."""
    stems = {text: content_words(lower_words(text)) for text in {text for triple in triples for text in triple}}
    return [cosine(stems[thought] - stems[present], stems[turn] - stems[present]) for present, thought, turn in triples]

"""What rewards that read the reply in a completion have in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from empathy_trl.tags import REPLY_TAGS, reply_text


@dataclass(kw_only=True)
class ReadsReply:
    """The reply in a completion, for rewards that look at it.

    Args:
        reply_tags: the tags that may hold the reply, see `tags.reply_text`; `[]` takes the whole completion.
    """

    reply_tags: list[str] = field(default_factory=lambda: list(REPLY_TAGS))

    @property
    def tags(self) -> list[str]:
        """The tags that this reward looks for, checked against the tokenizer by the trainer."""
        return self.reply_tags

    def reply(self, completion) -> str:
        """Return the stripped reply of a completion, "" where it has none."""
        return reply_text(completion, self.reply_tags)


@dataclass
class ReplyReward(ReadsReply, ABC):
    """A reward that is a function of the reply's text alone: `score(reply)`."""

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float | None]:
        """Return one reward per completion."""
        return [self.score(self.reply(completion)) for completion in completions]

    @abstractmethod
    def score(self, reply: str) -> float:
        """Return the reward of a stripped reply, which is "" where a completion has none."""

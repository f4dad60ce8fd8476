"""Is the reply a message that could be sent as it is? A penalty for what a language model leaves in one by mistake.

Take it with a small weight: 0.1 makes a malformed reply cost 0.1. A well-formed reply earns nothing for it.
"""

from dataclasses import dataclass

import regex

from empathy_trl.errors import UserError
from empathy_trl.rewards.reply import ReplyReward
from empathy_trl.words import is_visible

# What never belongs in a reply.
MALFORMED = {
    "a speaker's name before a line": r"^\W*(?:user|assistant|system|human|seeker|recommender|bot)\s*:",
    "a token of a chat template": r"<\|[^<>\n]*\|>|</?(?:start_of_turn|end_of_turn|s)>|\[/?INST\]|<</?SYS>>",
    "the id of a film": r"@\d+",
}


@dataclass
class FormatPenalty(ReplyReward):
    """-1 for a malformed reply, 0 for a well-formed one.

    Malformed is a reply that is empty or invisible; that has a broken `placeholder` (its name beside a `<` or `>`, other
    than the placeholder itself: `<movie`, `< movie >`, `</movie>`, `<mo` at the end); or that has one of `MALFORMED`: a
    line that begins with `User:` or the like, a chat template's token, `@` and digits.

    Range: {-1, 0}.

    Args:
        placeholder: what stands for a film's title, in angle brackets.
        reply_tags: see `ReadsReply`.
    """

    placeholder: str = "<movie>"

    __name__ = "format_penalty"
    penalty = True

    def __post_init__(self):
        if not regex.fullmatch(r"<\w+>", self.placeholder):
            raise UserError(f"placeholder: {self.placeholder!r} is not a word in angle brackets, such as <movie>")
        name = self.placeholder[1:-1]
        cut_off = "|".join(name[:end] for end in range(1, len(name)))
        broken = rf"<\s*/?\s*{name}\b|\b{name}\s*>|<(?:{cut_off})?\Z"
        self._malformed = regex.compile("|".join([broken, *MALFORMED.values()]), regex.IGNORECASE | regex.MULTILINE)

    def score(self, reply: str) -> float:
        rest = reply.replace(self.placeholder, ".")  # which keeps what stands beside it apart
        return -1.0 if not is_visible(reply) or self._malformed.search(rest) else 0.0

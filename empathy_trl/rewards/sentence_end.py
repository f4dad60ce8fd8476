"""Does the reply end like a sentence, or was it cut off?"""

from dataclasses import dataclass

import regex

from empathy_trl.rewards.reply import ReplyReward
from empathy_trl.words import plain, words

# Unicode's own list of what ends a sentence in any script: . ! ? 。 ؟ । ። … ("…" and "！" are plain dots and ! by then)
_TERMINAL = regex.compile(r"\p{Sentence_Terminal}")
# What may stand behind it: quotes and brackets that close, Markdown's emphasis, emoji, white space
_CLOSING = regex.compile(
    r"""[\s\p{Close_Punctuation}\p{Final_Punctuation}\p{Initial_Punctuation}"'*_`"""
    r"""\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}]"""
)


@dataclass
class SentenceEnd(ReplyReward):
    """1 if a reply has a word and ends with punctuation that ends a sentence, whatever the script; 0 otherwise.

    Closing quotes, brackets and emoji may follow the punctuation; an emoji does not replace it.

    Range: {0, 1}; 0 for an empty reply.
    """

    __name__ = "sentence_end"

    def score(self, reply: str) -> float:
        return float(ends_like_a_sentence(reply))


def ends_like_a_sentence(text: str) -> bool:
    """Return whether a text has a word and ends like a sentence."""
    text = plain(text)
    end = len(text)
    while end and _CLOSING.match(text[end - 1]):
        end -= 1
    return end > 0 and bool(_TERMINAL.match(text[end - 1])) and bool(words(text))

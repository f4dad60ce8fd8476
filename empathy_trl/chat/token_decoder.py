"""Token ids to text, one by one: no character is cut, and no tag is lost."""

from collections.abc import Iterable

from empathy_trl.chat.reply import TAGS
from empathy_trl.tags import tag_marks

BROKEN = "\ufffd"  # how bytes are decoded that are no character yet
_LONGEST = 4  # bytes of a character, and at most as many tokens


class TokenDecoder:
    """Decodes the tokens of one reply.

    Special tokens are left out, but never a tag: that would be gone before anybody could tell the parts of a reply. What
    would end in the middle of a character waits for the rest of it. A token is decoded together with those before it,
    because in some vocabularies the space before a word belongs to neither.

    Args:
        tokenizer: of the model.
        hidden: ids beyond the special ones that are no text, such as those that end a reply.
    """

    def __init__(self, tokenizer, hidden: Iterable[int] = ()):
        self._tokenizer = tokenizer
        self._hidden = hidden_ids(tokenizer) | set(hidden)
        self._ids: list[int] = []
        self._start = self._end = 0  # of the tokens that give the next ones their left side; all before `_end` are out

    def feed(self, token: int) -> str:
        """Return the text that a token completes, "" if it does not."""
        if token in self._hidden:
            return ""
        self._ids.append(token)
        return self._next(final=False)

    def close(self) -> str:
        """Return what waits, without the beginning of a character that never came."""
        return self._next(final=True).rstrip(BROKEN)

    def _next(self, final: bool) -> str:
        before, now = self._decode(self._start, self._end), self._decode(self._start, len(self._ids))
        waits = len(self._ids) - self._end <= _LONGEST  # more are no character, but noise
        if now.endswith(BROKEN) and waits and not final:
            return ""
        self._start, self._end = self._end, len(self._ids)
        return now[len(before) :]

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(
            self._ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


def hidden_ids(tokenizer) -> set[int]:
    """Return the ids of all special tokens but those that are tags."""
    special = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    tags = set(tag_marks(TAGS))
    return {index for index, content in special.items() if content not in tags}

r"""Splitting a text into words, in the same way for every reward and figure that counts them.

The rule is Unicode's properties and nothing else, so that it needs no language and no model:

* In scripts that put spaces between words, a word is a run of letters, digits and combining marks; an apostrophe
  inside it belongs to it (`don't`), a hyphen does not.
* In scripts that do not (Chinese characters, kana, Thai, Lao, Khmer, Burmese), every letter is a word, with the marks
  on it. A sentence then has more "words" than a speaker would count, by a factor of about 1.5 for Chinese.
* An emoji is a word, and one that is joined from several, such as a family, is several.
* What stands for an address or a film's title, `<url>`, `<email>` or `<movie>`, is a word.

Punctuation is no word; `pieces` has it too.

What a text speaks of, without a model: its content words, in a form in which inflections of one word agree.

* A word that everybody uses in every talk is no content word: the closed list `STOP_WORDS`, English, and single letters.
* A word counts by its stem, so that `worry`, `worries` and `worried` are one: one English ending is taken off, a doubled
  letter made single, a final y made i, and five letters are kept. Fewer letters take different words for one, as five do
  with `interest` and `internet`; more tell `decorate` from `decoration`.

Words are those of `words`, so every character counts in a script without spaces.

Cleaning of texts written by strangers.

The order matters. Entities are decoded first, so that an escaped tag is seen as a tag. Invisible characters
go next, so that none can hide inside a tag. A tag becomes a space, never nothing: words on both sides stay
apart, and the pieces around a removed tag cannot join into a new one (`<an<b>swer>`). A text therefore never
holds `<answer>`, `</reasoning>` or a chat template's `<|im_end|>`, which would be read as part of the model's
own output or of the conversation. `<movie>`, which stands for a film's title, is a word and stays.

What a model wrote, made safe to print: nothing in it moves a cursor, sets a title, or turns a line around.

| characters | what becomes of them |
|---|---|
| line feed, tab | stay |
| carriage return | dropped: at the end of a line it says nothing, elsewhere it overwrites one |
| other control characters (C0, C1, DEL), such as escape | shown, as in `\x1b` |
| format characters (bidirectional overrides, zero width, tags) | dropped, but for the joiners that Persian and emoji need |
| line and paragraph separators | a line feed |
| halves of surrogate pairs, which no encoding takes | U+FFFD |

Every character is looked at alone. So a text may come in pieces, cut anywhere: without its escape character, what is left
of an escape sequence are letters.

What must not be seen: tokens, and addresses that are as good as one. Everything said about a push goes through here.
"""

import html
import logging
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import regex

UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_WORD = rf"""
    <(?:url|email|movie)>
  | [[\p{{L}}\p{{N}}]&&{UNSPACED}]\p{{M}}*
  | [[\p{{L}}\p{{N}}\p{{M}}]--{UNSPACED}]+ (?: ['’] [[\p{{L}}\p{{N}}\p{{M}}]--{UNSPACED}]+ )*
  | \p{{Regional_Indicator}}{{2}}
  | \p{{Extended_Pictographic}}\p{{Emoji_Modifier}}?
"""
_WORDS = regex.compile(_WORD, regex.VERBOSE | regex.V1)
_PIECES = regex.compile(rf"{_WORD} | \S", regex.VERBOSE | regex.V1)
_INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}]+")
_VISIBLE = regex.compile(r"[^\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cc}\p{Cs}\p{Z}]")


def plain(text: str) -> str:
    """Return `text` in Unicode's form NFKC without invisible characters.

    Wide, styled and composed forms of a letter become the letter; zero-width spaces and joiners, soft hyphens,
    direction marks and variation selectors vanish. What looks alike to a reader is then alike, within one script.
    """
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))


def is_visible(text: str) -> bool:
    """Whether a text has anything but white space and control, zero-width and other invisible characters."""
    return _VISIBLE.search(text) is not None


def words(text: str) -> list[str]:
    """Return the words of a text in order, with their case."""
    return _WORDS.findall(plain(text))


def pieces(text: str) -> list[str]:
    """Return the words of a text and every other visible character, such as a full stop, in order."""
    return _PIECES.findall(plain(text))


def ngrams(items: list[str], n: int) -> list[tuple[str, ...]]:
    """Return all runs of `n` neighbours, in order; none when there are fewer than `n` items."""
    return list(zip(*(items[start:] for start in range(n)), strict=False))


STEM_LETTERS = 5
_SUFFIXES = ("ing", "ed", "es", "s", "ly", "e")  # taken off where three letters are left

# words of grammar, of politeness and of hesitation, and verbs that say little by themselves
_STOP_WORDS = """
a about above across actually after again against ago ah all almost along already also although always am among an
and another any anybody anyone anything anyway are around as at away back be became because become been before
behind being below between both but by came can cannot come comes coming could did do does doing done down during
each ehm either else enough even ever every everybody everyone everything few for from further gave get gets getting
give gives giving go goes going gone gonna got had has have having he hello her here hers herself hey hi him himself
his hmm how however huh i if in indeed instead into is it its itself just keep keeps kept kind know knows known last
least less let lets like likely lot lots made make makes making many may maybe me mean means might mine more most
much must my myself near need needs neither never next no nobody none nor not nothing now of off often oh ok okay on
once one ones only onto or other others ought our ours ourselves out over own per perhaps please probably put puts
quite rather really right said same saw say saying says see seem seemed seems seen several shall she should since so
some somebody somehow someone something sometimes somewhere soon sort sorry still stuff such sure take taken takes
taking tell tells than thank thanks that the their theirs them themselves then there therefore these they thing
things think thinking thinks this those though through thus to today together told too took toward towards try
trying under until unless up upon us use used using usually very via wanna want wanted wants was way ways we well
went were what whatever when whenever where wherever whether which while who whoever whole whom whose why will with
within without would yeah yes yet you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
# don't, it's, they've: a stop word with its ending, and friend's: a word with one
_CONTRACTIONS = ("n't", "'s", "'m", "'re", "'ve", "'ll", "'d")
_IRREGULAR = frozenset(("can't", "won't", "shan't", "ain't"))


def lower_words(text: str) -> list[str]:
    """Return the words of a text in order, without case and with plain apostrophes."""
    return [word.casefold().replace("’", "'") for word in words(text)]


def content_words(spoken: Iterable[str]) -> set[str]:
    """Return the stems of the content words among what `lower_words` returns."""
    uncontracted = {_without_contraction(word) for word in spoken}
    return {stem(word) for word in uncontracted - STOP_WORDS if len(word) > 1 or not word.isascii()}


def stem(word: str) -> str:
    """Return the stem of a word in lower case, at most five letters long."""
    suffix = next((end for end in _SUFFIXES if word.endswith(end) and len(word) - len(end) >= 3), "")
    word = word.removesuffix(suffix)
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    if len(word) > 3 and word[-1] == "y":
        word = word[:-1] + "i"
    return word[:STEM_LETTERS]


def cosine(first: set[str], second: set[str]) -> float:
    """Return the cosine of two sets, |a ∩ b| / √(|a| |b|), in [0, 1]; 0 where one is empty."""
    return len(first & second) / math.sqrt(len(first) * len(second)) if first and second else 0.0


def _without_contraction(word: str) -> str:
    if "'" not in word:
        return word
    if word in _IRREGULAR:
        return "not"
    return next((word.removesuffix(ending) for ending in _CONTRACTIONS if word.endswith(ending)), word)


# Control characters that are not white space, lone surrogates, and invisible formatting: soft hyphen,
# zero-width space, direction marks and overrides, word joiner, byte order mark. Kept are the joiners U+200C
# and U+200D, which Persian and many emoji need.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\ud800-\udfff\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
JOINERS = "\u200c\u200d"
# A letter, "/", "!", "?" or "|" must follow "<", which spares "<3" and "a < b".
_TAG = re.compile(r"<(?!movie>)[A-Za-z/!?|][^<>]*>")
_Turn = TypeVar("_Turn")
# A "word" is at most this many characters long, so that text without spaces is bounded too.
_LONGEST_WORD = 20


def clean(text: str) -> str:
    """Return `text` decoded once from HTML, without tags and invisible characters, white space collapsed.

    `<movie>` is no tag. Case, punctuation, emoji and right-to-left script are kept. The result may be empty.
    """
    text = INVISIBLE.sub("", html.unescape(text))
    text = _TAG.sub(" ", text)
    return " ".join(text.split()).strip(" " + JOINERS)


def truncate_turns(turns: list[str], max_words: int) -> list[str]:
    """Return the newest turns of a dialogue that have `max_words` words together, see `newest_turns`."""
    return newest_turns(turns, max_words, count_words, truncate_start)


def newest_turns(
    turns: list[_Turn], limit: int, length: Callable[[_Turn], int], end: Callable[[_Turn, int], _Turn]
) -> list[_Turn]:
    """Return the last turns of a dialogue that are no longer than `limit` together; of the last turn at least its end.

    The oldest turns go first, whole; only where the last one alone is too long does it lose its own beginning.

    Args:
        turns: at least one, the oldest first; texts, or whatever is to stay together.
        length: of a turn.
        end: takes a turn and a limit, and returns the end of the turn.
    """
    kept, left = [end(turns[-1], limit)], limit - length(turns[-1])
    for turn in reversed(turns[:-1]):
        left -= length(turn)
        if left < 0:
            break
        kept.insert(0, turn)
    return kept


def truncate_start(text: str, max_words: int) -> str:
    """Return the last `max_words` words of `text`: in a dialogue or a story the oldest words go first.

    Words are separated by white space; a longer run of characters counts as one word per 20 characters begun.
    A text within the limit is returned unchanged.
    """
    starts = _words(text)
    return text if len(starts) <= max_words else text[starts[-max_words] :]


def count_words(text: str) -> int:
    """Return the number of words of a text, as `truncate_start` counts them."""
    return len(_words(text))


def _words(text: str) -> list[int]:
    """Return where the words of a text begin."""
    return [match.start() for match in re.finditer(rf"\S{{1,{_LONGEST_WORD}}}", text)]


STAY = "\n\t" + JOINERS


def printable(text: str) -> str:
    """Return a text that may go to a terminal."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in STAY:
        return character
    if character == "\r":
        return ""
    kind = unicodedata.category(character)
    if kind == "Cc":
        return f"\\x{ord(character):02x}"
    return {"Cf": "", "Zl": "\n", "Zp": "\n", "Cs": "\ufffd"}.get(kind, character)


# of the Hub; keys of other services; whatever is sent as one. What looks like a word cannot be told from one
TOKEN = re.compile(
    r"\b(?:(?:hf|api_org|hf_oauth)_[A-Za-z0-9]{8,}"
    r"|(?:(?:sk|nvapi|xai|xox[a-z])-|(?:gsk|r8|ghp|gho|github_pat)_|AIza|eyJ)[\w-]{16,})"
    r"|(?<=Bearer )[^\s'\",]+"
)
# what stands behind the ? of an address may be a signature that lets anybody upload for a while
QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\")]+")
USER = re.compile(r"(https?://)[^\s/'\"@]+@")
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def mask(text: str) -> str:
    """Return a text without the token of whoever is logged in, and without anything that looks like one."""
    for token in _tokens():
        text = text.replace(token, "[token]")
    return USER.sub(r"\1", QUERY.sub(r"\1", TOKEN.sub("[token]", text)))


def _tokens() -> set[str]:
    """Return the tokens on this machine; too short ones are no tokens, and would blot out words."""
    from huggingface_hub import constants

    found = [os.environ.get(variable, "") for variable in VARIABLES]
    try:
        with open(constants.HF_TOKEN_PATH, encoding="utf-8") as file:
            found.append(file.read())
    except (OSError, UnicodeDecodeError):
        pass
    return {token.strip() for token in found if len(token.strip()) >= 8}


@contextmanager
def masked_log(name: str) -> Iterator[None]:
    """Mask what a logger says, inside the block."""
    logger = logging.getLogger(name)
    logger.addFilter(_mask_record)
    try:
        yield
    finally:
        logger.removeFilter(_mask_record)


def _mask_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = mask(record.getMessage()), None
    return True

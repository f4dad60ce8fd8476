"""Text functions shared by data, rewards, metrics and chat; they need no language model and work in any language.

| functions | what they do |
|---|---|
| `plain`, `is_visible` | normalise characters that look alike; test whether a text has visible characters |
| `words`, `pieces`, `lower_words`, `ngrams` | split a text, in any script |
| `content_words`, `cosine` | the content words of a text (English stop words), and the similarity of two sets of them |
| `clean` | prepare text from users for training: no markup, no invisible characters |
| `normalize` | prepare social-media text for models that score it: no addresses, no user names |
| `truncate_start`, `truncate_turns`, `newest_turns`, `count_words` | keep the end of a text or of a dialogue |
| `sanitise` | make model output safe to print |
| `in_markdown` | show a name in a Markdown page as it is |
| `encodable` | leave out what no file can hold |
| `mask`, `masked_log` | hide tokens, and addresses that contain secrets |
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

# what GitHub's Markdown may read as more than a character
MARKDOWN = re.compile(r"[\\`*\[\]<>#|~$&!{}@]|(?<!\w)_|_(?!\w)|^[-+=]")
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
    """Return the words of a text in order, with their case.

    What a word is follows from Unicode's properties:

    * In scripts that put spaces between words, a word is a run of letters, digits and combining marks. An apostrophe inside
      it belongs to it (`don't`), a hyphen does not.
    * In scripts that do not (Chinese characters, kana, Thai, Lao, Khmer, Burmese), every letter with its marks is a word. A
      Chinese sentence then has about 1.5 times as many words as a speaker would count.
    * An emoji is a word; one that is joined from several, such as a family, is several.
    * `<url>`, `<email>` and `<movie>`, which stand for an address or a film's title, are words.
    """
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
    """Return the stems of the content words among what `lower_words` returns: what a text speaks of.

    A content word is none of the closed list `STOP_WORDS` (English, what everybody says in every talk) and no single letter.
    It counts by its stem, so `worry`, `worries` and `worried` are one.
    """
    uncontracted = {_without_contraction(word) for word in spoken}
    return {stem(word) for word in uncontracted - STOP_WORDS if len(word) > 1 or not word.isascii()}


def stem(word: str) -> str:
    """Return the stem of a word in lower case: without one English ending, cut to five letters.

    A doubled letter at the end becomes single and a final y becomes i. Fewer letters would merge more unrelated words, as five
    do with `interest` and `internet`; more would tell `decorate` from `decoration`.
    """
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

    `<movie>`, which stands for a film's title, stays. So do case, punctuation, emoji and right-to-left script. The result may
    be empty, and it never holds a tag such as `<answer>` or a chat template's `<|im_end|>`, which would be read as the model's
    own output or as part of the conversation.
    """
    # the order counts: a decoded entity may be a tag, and an invisible character may hide inside one. A tag becomes a
    # space, so that the pieces around it cannot join into a new one (`<an<b>swer>`)
    text = INVISIBLE.sub("", html.unescape(text))
    text = _TAG.sub(" ", text)
    return " ".join(text.split()).strip(" " + JOINERS)


# Combining marks of all scripts: Python's \w leaves them out, so that a Hindi word would end in its middle. The
# variation selector of an emoji ends no word.
_MARKS = "".join(
    mark for mark in map(chr, range(0x300, 0x1E950)) if unicodedata.category(mark) in ("Mn", "Mc") and mark != "\ufe0f"
)
_LETTER = rf"\w{_MARKS}"

# Python sorts the marks on one letter in quadratic time. No language stacks more than 30 (the limit of Unicode's
# stream-safe text format, UAX #15). The first pattern is wider than the second and finds candidates ten times faster.
_LONG_RUN = re.compile(r"[^\w\0-\u02ff\u2000-\u20cf\u2100-\u2bff\U0001f000-\U0001ffff]{31,}+")
_STACKED = re.compile(rf"([{_MARKS}]{{30}})[{_MARKS}]++")

# Possessive quantifiers (++) and lookbehinds that allow one start per run of characters keep every pattern linear.
# A joiner at the edge of a word joins nothing.
_LOOSE_JOINER = re.compile(rf"(?<!\S)[{JOINERS}]++|(?<![{JOINERS}])[{JOINERS}]++(?!\S)")
# ASCII but white space, quotes and <>, or a letter of an alphabet: Chinese text continues without a space.
_URL = re.compile(r"(?<![a-z0-9])(?:(?:https?|ftp)://|www\.)(?=\w)[!#-;=?-~\u00a1-\u1fff]++", re.ASCII | re.IGNORECASE)
_AFTER_URL = ".,;:!?'*_)]}"
_LABEL = r"\w++(?:-++\w++)*+"
_EMAIL = re.compile(
    r"(?<![\w+-])(?<![\w+-]\.)[\w+-]++(?:\.[\w+-]++)*+(?<=\w)"  # bob, bob.lee+news
    rf"@{_LABEL}(?:\.{_LABEL})++(?<=[^\W\d_]{{2}})(?![{_LETTER}])"  # @mail.example.org
    r"(?!\.?[\w+-]++(?:\.[\w+-]++)*+@)"  # and no second "@", which makes it something else
)
# A name has a letter in it, and "@" and "#" mean something else behind some characters: "@5", "a@b.c", "#1", "C#",
# "&#39;" and "page/#part" stay. That lookbehind stands second, since regular expressions find a first letter fast.
_NAME = rf"\d*+[^\W\d][{_LETTER}]*+"
_MENTION = re.compile(rf"@(?<![{_LETTER}@/]@){_NAME}(?:@[{_LETTER}]*+)*+")  # also @name@host
_HASHTAGS = re.compile(rf"#(?<![{_LETTER}&/@.#:=+%-]#)#*+{_NAME}(?:#++{_NAME})*+")


def normalize(
    text: str,
    *,
    nfkc: bool = True,
    urls: bool = True,
    emails: bool = True,
    mentions: bool = True,
    hashtags: bool = True,
    control: bool = True,
    whitespace: bool = True,
) -> str:
    """Return social-media text in a normal form; each step has its switch. Takes time linear in the length of `text`.

    Addresses, user names and symbols that differ in every text become one token each, as in BERTweet (Nguyen et al., 2020)
    and similar models. The order matters: invisible characters go first and NFKC follows, so that no address can hide
    behind a zero-width space or a full-width "＠"; addresses go before mentions, because "a@b.org" contains an "@".
    Normalisation is idempotent.

    Args:
        nfkc: Unicode's compatibility form: full-width letters, ligatures and circled digits become plain ones. Of
            more than 30 combining marks in a row the rest goes.
        urls: `http(s)://…`, `ftp://…` and `www.…` become `<url>`; punctuation behind them stays.
        emails: e-mail addresses become `<email>`.
        mentions: `@name` and `@name@host` become `@USER`.
        hashtags: `#tag` becomes `tag`, `#two#tags` become `two tags`.
        control: control characters, lone surrogates, zero-width and direction characters go. The joiners U+200C and
            U+200D stay inside words and emoji; white space is the next step's.
        whitespace: every run of white space becomes one space, none at the ends.
    """
    if control:
        text = INVISIBLE.sub("", text)
    if nfkc:
        text = _limit_marks(unicodedata.normalize("NFKC", _limit_marks(text)))
    if control:
        text = _LOOSE_JOINER.sub("", text)
    if urls:
        text = _URL.sub(_replace_url, text)
    if emails:
        text = _EMAIL.sub("<email>", text)
    if mentions:
        text = _MENTION.sub("@USER", text)
    if hashtags:
        text = _HASHTAGS.sub(lambda match: " ".join(filter(None, match.group().split("#"))), text)
    if whitespace:
        text = " ".join(text.split())
    return text


def _limit_marks(text: str) -> str:
    return _LONG_RUN.sub(lambda run: _STACKED.sub(r"\1", run.group()), text)


def _replace_url(match: re.Match) -> str:
    """Keep what ends the sentence, not the address; a bracket that the address opens belongs to it."""
    url = match.group()
    body = url.rstrip(_AFTER_URL)
    behind = url[len(body) :]
    if behind.startswith(")") and body.count("(") > body.count(")"):
        behind = behind[1:]
    return "<url>" + behind


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


def in_markdown(value) -> str:
    """Return a name, a path or another value as text that Markdown shows as it is, on one line."""
    return MARKDOWN.sub(r"\\\g<0>", " ".join(str(value).split()))


_HALVES = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """Return a text without halves of surrogate pairs (`"\\ud83d"`), which JSON may contain but UTF-8 cannot encode."""
    return _HALVES.sub("", text)


STAY = "\n\t" + JOINERS


def sanitise(text: str) -> str:
    r"""Return a text that is safe to print: nothing in it moves a cursor, sets a title, or turns a line around.

    | characters | what becomes of them |
    |---|---|
    | line feed, tab, and the joiners that Persian and emoji need | stay |
    | carriage return | dropped |
    | other control characters (C0, C1, DEL), such as escape | shown, as in `\x1b` |
    | other format characters (bidirectional overrides, zero width, tags) | dropped |
    | line and paragraph separators | a line feed |
    | halves of surrogate pairs, which no encoding takes | U+FFFD |

    Every character is looked at alone, so a text may come in pieces, cut anywhere.
    """
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


# Tokens of the Hub, keys of other services, and whatever is sent as one; one that looks like a word is not found
TOKEN = re.compile(
    r"\b(?:(?:hf|api_org|hf_oauth)_[A-Za-z0-9]{8,}"
    r"|(?:(?:sk|nvapi|xai|xox[a-z])-|(?:gsk|r8|ghp|gho|github_pat)_|AIza|eyJ)[\w-]{16,})"
    r"|(?<=Bearer )[^\s'\",]+"
)
# What follows the ? of an address may be a signature that lets anybody upload for a while
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

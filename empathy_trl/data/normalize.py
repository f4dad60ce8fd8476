"""Normalisation of social-media text for models that score it.

Addresses, user names and symbols that differ in every text become one token each, as in BERTweet (Nguyen et al., 2020)
and similar models. The order matters: invisible characters go first and NFKC follows, so that no address can hide
behind a zero-width space or a full-width "＠"; addresses go before mentions, because "a@b.org" contains an "@".
Normalisation is idempotent.
"""

import re
import unicodedata

from empathy_trl.text import INVISIBLE, JOINERS

# Combining marks of all scripts: Python's \w leaves them out, so that a Hindi word would end in its middle. The
# variation selector of an emoji ends no word.
_MARKS = "".join(
    mark for mark in map(chr, range(0x300, 0x1E950)) if unicodedata.category(mark) in ("Mn", "Mc") and mark != "\ufe0f"
)
_WORD = rf"\w{_MARKS}"

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
    rf"@{_LABEL}(?:\.{_LABEL})++(?<=[^\W\d_]{{2}})(?![{_WORD}])"  # @mail.example.org
    r"(?!\.?[\w+-]++(?:\.[\w+-]++)*+@)"  # and no second "@", which makes it something else
)
# A name has a letter in it, and "@" and "#" mean something else behind some characters: "@5", "a@b.c", "#1", "C#",
# "&#39;" and "page/#part" stay. That lookbehind stands second, since regular expressions find a first letter fast.
_NAME = rf"\d*+[^\W\d][{_WORD}]*+"
_MENTION = re.compile(rf"@(?<![{_WORD}@/]@){_NAME}(?:@[{_WORD}]*+)*+")  # also @name@host
_HASHTAGS = re.compile(rf"#(?<![{_WORD}&/@.#:=+%-]#)#*+{_NAME}(?:#++{_NAME})*+")


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
    """Return `text` in a normal form; each step has its switch. Takes time linear in the length of `text`.

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

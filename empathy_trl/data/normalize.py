"""Normalisation of social-media text for models that score it.

Addresses, names and signs that differ in every text become one token each, as in BERTweet (Nguyen et al., 2020) and
its kind. The order matters: invisible characters go first and NFKC follows, so that no address can hide behind a
zero-width space or a full-width "＠"; addresses go before mentions, because "a@b.org" holds an "@". Normalising twice
is normalising once.
"""

import re
import unicodedata

from empathy_trl.data.text import INVISIBLE, JOINERS

# Combining marks of most scripts: Python's \w leaves them out, so that a Hindi word would end in its middle.
_MARKS = "".join(chr(code) for code in range(0x300, 0x2100) if unicodedata.category(chr(code)).startswith("M"))
_WORD = rf"\w{_MARKS}"

# Possessive quantifiers (++) and lookbehinds that allow one start per run of characters keep every pattern linear.
# A joiner at the edge of a word joins nothing.
_LOOSE_JOINER = re.compile(rf"(?<!\S)[{JOINERS}]++|(?<![{JOINERS}])[{JOINERS}]++(?!\S)")
# ASCII but white space, quotes and <>, or a letter of an alphabet: Chinese text continues without a space.
_URL = re.compile(r"(?<![a-z0-9])(?:(?:https?|ftp)://|www\.)(?=\w)[!#-;=?-~\u00a1-\u1fff]++", re.ASCII | re.IGNORECASE)
_AFTER_URL = ".,;:!?'*_)]}"
_EMAIL = re.compile(
    rf"(?<![\w+-])(?<![\w+-]\.)[\w+-]++(?:\.[\w+-]++)*+(?<=\w)@(?:[\w-]++\.)+[^\W\d_]{{2,}}+(?![{_WORD}])"
)
# With a letter in it, and not inside an address or a path: "@5" and "a@b.c" are no mentions.
_MENTION = re.compile(rf"(?<![{_WORD}@/])@\d*+[^\W\d][{_WORD}]*+")
# With a letter in it, and not behind something that makes "#" another sign: "#1", "C#", "&#39;", "page/#part".
_HASHTAGS = re.compile(rf"(?<![{_WORD}&/@.#:=+%-])(?:#++\d*+[^\W\d][{_WORD}]*+)+")


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
        nfkc: Unicode's compatibility form: full-width letters, ligatures and circled digits become plain ones.
        urls: `http(s)://…`, `ftp://…` and `www.…` become `<url>`; punctuation behind them stays.
        emails: e-mail addresses become `<email>`.
        mentions: `@name` becomes `@USER`.
        hashtags: `#tag` becomes `tag`, `#two#tags` become `two tags`.
        control: control characters, lone surrogates, zero-width and direction characters go. The joiners U+200C and
            U+200D stay inside words and emoji; white space is the next step's.
        whitespace: every run of white space becomes one space, none at the ends.
    """
    if control:
        text = INVISIBLE.sub("", text)
    if nfkc:
        text = unicodedata.normalize("NFKC", text)
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


def _replace_url(match: re.Match) -> str:
    """Keep what ends the sentence, not the address; a bracket that the address opens belongs to it."""
    url = match.group()
    body = url.rstrip(_AFTER_URL)
    behind = url[len(body) :]
    if behind.startswith(")") and body.count("(") > body.count(")"):
        behind = behind[1:]
    return "<url>" + behind

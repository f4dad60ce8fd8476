"""Splitting a text into words, in the same way for every reward and figure that counts them.

The rule is Unicode's properties and nothing else, so that it needs no language and no model:

* In scripts that put spaces between words, a word is a run of letters, digits and combining marks; an apostrophe
  inside it belongs to it (`don't`), a hyphen does not.
* In scripts that do not (Chinese characters, kana, Thai, Lao, Khmer, Burmese), every letter is a word, with the marks
  on it. A sentence then has more "words" than a speaker would count, by a factor of about 1.5 for Chinese.
* An emoji is a word, and one that is joined from several, such as a family, is several.
* What stands for an address or a film's title, `<url>`, `<email>` or `<movie>`, is a word.

Punctuation is no word; `pieces` has it too.
"""

import unicodedata

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

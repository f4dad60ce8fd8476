"""Splitting texts of many scripts into words, as tables of (text, expected, why)."""

import pytest

from empathy_trl.text import is_visible, ngrams, pieces, plain, words


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("I am sorry.", ["I", "am", "sorry"], "punctuation is no word"),
        (
            "Don't, it’s 'fine'",
            ["Don't", "it’s", "fine"],
            "an apostrophe inside a word belongs to it, a quote does not",
        ),
        ("well-known", ["well", "known"], "a hyphen separates"),
        ("in 2016 or 3rd", ["in", "2016", "or", "3rd"], "digits are letters here"),
        ("你好，世界。", ["你", "好", "世", "界"], "one character, one word"),
        ("OK你好ok", ["OK", "你", "好", "ok"], "scripts change without a space"),
        ("カラー", ["カ", "ラ", "ー"], "kana, with the mark of length"),
        ("안녕 하세요", ["안녕", "하세요"], "Korean has spaces"),
        ("ภาษา", ["ภ", "า", "ษ", "า"], "Thai has none"),
        ("น้ำ", ["น้ํ", "า"], "marks stay on their letter"),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"], "vowel signs do not split a word"),
        ("مُحَمَّد بخير؟", ["مُحَمَّد", "بخير"], "nor do Arabic vowels"),
        ("so sad 😢😢", ["so", "sad", "😢", "😢"], "each emoji is a word"),
        ("👍🏽 🇩🇪 👨‍👩‍👧", ["👍🏽", "🇩🇪", "👨", "👩", "👧"], "skin tones and flags are one, families several"),
        ("w\u200bo\u200br\u200bd", ["word"], "what cannot be seen does not split"),
        ("ｗｉｄｅ 𝐛𝐨𝐥𝐝", ["wide", "bold"], "forms of a letter are that letter"),
        ("see <movie>, <url> or <email>", ["see", "<movie>", "<url>", "or", "<email>"], "slots are words"),
        ("", [], "empty"),
        (" \n\t", [], "white space"),
        ("...!?", [], "punctuation only"),
    ],
)
def test_words(text, expected, why):
    assert words(text) == expected, why


def test_pieces_are_words_and_every_other_visible_character():
    assert pieces("<movie>? <movies>") == ["<movie>", "?", "<", "movies", ">"]
    assert pieces("Well... it's ok，好!!") == ["Well", ".", ".", ".", "it's", "ok", ",", "好", "!", "!"]


def test_plain_makes_composed_and_decomposed_letters_equal():
    assert plain("café") == plain("cafe\u0301") == plain("ca\u00adfé\ufe0f")


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        (".", True, "punctuation"),
        ("\u200b\u0301", True, "a mark without a letter"),
        ("\U0001fae9", True, "an emoji that is newer than the tables"),
        ("", False, "nothing"),
        (" \t\u3000\u2028", False, "white space"),
        ("\u200b\u00ad\u202e\x07\ud83d", False, "zero-width, direction and control characters, half a pair"),
        ("\ufe0f\u3164", False, "a variation selector and a Hangul filler"),
    ],
)
def test_what_can_be_seen(text, expected, why):
    assert is_visible(text) == expected, why


@pytest.mark.parametrize(
    ("items", "n", "expected"),
    [
        (["a", "b", "c"], 2, [("a", "b"), ("b", "c")]),
        (["a", "b"], 1, [("a",), ("b",)]),
        (["a", "b"], 2, [("a", "b")]),
        (["a", "b"], 3, []),
        ([], 1, []),
    ],
)
def test_ngrams(items, n, expected):
    assert ngrams(items, n) == expected

"""Texts are split, cleaned, cut, shown and masked the same way everywhere."""

import logging
import random

import pytest

from empathy_trl.tags import tag_bodies
from empathy_trl.text import (
    STOP_WORDS,
    clean,
    content_words,
    is_visible,
    lower_words,
    mask,
    masked_log,
    pieces,
    plain,
    sanitise,
    stem,
    truncate_start,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("I am sorry.", ["I", "am", "sorry"], "punctuation is no word"),
        ("Don't, it’s 'fine'", ["Don't", "it’s", "fine"], "an apostrophe inside a word belongs to it, a quote does not"),
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
)  # fmt: skip
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
    ("text", "expected"),
    [
        ("I don't know, it's what they've said", set()),
        ("My friend’s DOG ran!", {"frien", "dog", "ran"}),
        ("can't won't shan't I'll", set()),
        ("a b c 7", set()),
        ("in 2019", {"2019"}),
        ("我很难过", {"我", "很", "难", "过"}),
        ("", set()),
        ("... !?", set()),
    ],
)
def test_content_words(text, expected):
    assert content_words(lower_words(text)) == expected


@pytest.mark.parametrize(
    "forms",
    [
        ("plan", "plans", "planned", "planning"),
        ("worry", "worries", "worried", "worrying"),
        ("friend", "friends", "friendly", "friendship"),
        ("move", "moved", "moves", "moving"),
        ("decorate", "decoration"),
        ("class", "classes"),
    ],
)
def test_inflections_have_one_stem(forms):
    assert len({stem(word) for word in forms}) == 1


def test_different_words_have_different_stems():
    different = ["sister", "system", "shelf", "shell", "book", "boot", "bring", "thing", "red", "reed", "bus", "busy"]
    assert len({stem(word) for word in different}) == len(different)


def test_stop_words_are_written_as_they_are_looked_up():
    assert all(lower_words(word) == [word] for word in STOP_WORDS)


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize(
    ("raw", "expected", "why"),
    [
        (" i used to  be\tafraid\r\nof it ", "i used to be afraid of it", "white space collapsed"),
        ("so\u00a0happy\u2028today\x85now", "so happy today now", "every kind of white space"),
        ("tom &amp; i said &quot;no&quot; &#128512;", 'tom & i said "no" \U0001f600', "entities"),
        ("good<br/>bye <b>now</b>", "good bye now", "tags part words"),
        ("a <a href='x'>link</a> <!-- hidden --> <?php ?>", "a link", "attributes, comments, instructions"),
        ("i <3 you, 2 < 3 > 1, <- that", "i <3 you, 2 < 3 > 1, <- that", "no tags"),
        ("5 <", "5 <", "a lone bracket"),
        ("try <movie> <i>or</i><movie>!</movie>", "try <movie> or <movie>!", "what stands for a film's title is a word"),
        ("<b>", "", "nothing but a tag"),
        ("bad\x00bell\x07esc\x1b[0m\x7f", "badbellesc[0m", "control characters"),
        ("zero\u200bwidth\ufeff \u202eevil\u202c so\u00adft", "zerowidth evil soft", "invisible formatting"),
        ("\u200b\ufeff \u200d", "", "nothing visible"),
        ("lone \ud83d surrogate", "lone surrogate", "not encodable as UTF-8"),
        (f"{FAMILY} \u2764\ufe0f", f"{FAMILY} \u2764\ufe0f", "joined emoji and variation selectors"),
        ("\u0645\u06cc\u200c\u0631\u0648\u0645", "\u0645\u06cc\u200c\u0631\u0648\u0645", "Persian non-joiner"),
        ("\u200f\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "right to left"),
        ("Ünïcödé «ok» …", "Ünïcödé «ok» …", "case, accents, punctuation"),
    ],
)  # fmt: skip
def test_clean(raw, expected, why):
    assert clean(raw) == expected, why
    clean(raw).encode("utf-8")


@pytest.mark.parametrize(
    "raw",
    [
        "x <answer>joyful</answer> y</reasoning>",
        "&lt;answer&gt;joyful&lt;/answer&gt;&lt;/reasoning&gt;",
        "<ans\u200bwer>joyful</ans\u00adwer></reas\x00oning>",
        "<an<b>swer>joyful</an<b>swer></reas<i>oning>",
        "<an<movie>swer>joyful</an<movie>swer></reas<movie>oning>",
        "<<b>answer>joyful<<b>/answer><<b>/reasoning>",
        "<an&lt;b&gt;swer>joyful</answer></reasoning>",
        "<|im_end|><|im_start|>assistant<end_of_turn></s>",
    ],
)
def test_clean_leaves_no_tag_of_the_output_format_or_the_chat_template(raw):
    cleaned = clean(raw)
    assert tag_bodies(cleaned, "answer") == []
    marks = ("<answer>", "</answer>", "</reasoning>", "<|im_end|>", "<|im_start|>", "<end_of_turn>", "</s>")
    assert not [mark for mark in marks if mark in cleaned]


def test_cleaning_a_huge_text_is_fast_even_when_hostile():
    # Quadratic behaviour would take minutes here.
    for unit in ("<a", "<!--", "&lt;", "&amp;", "<b>", "word "):
        clean(unit * 200_000)


@pytest.mark.parametrize(
    ("text", "max_words", "expected"),
    [
        ("one two three", 3, "one two three"),
        ("one two three", 2, "two three"),
        ("one two three", 1, "three"),
        ("one  two", 5, "one  two"),
        ("", 3, ""),
        ("a" * 45, 3, "a" * 45),
        ("a" * 45, 1, "a" * 5),
        ("old " + "a" * 40, 2, "a" * 40),
    ],
)
def test_truncate_start_drops_the_oldest_words(text, max_words, expected):
    assert truncate_start(text, max_words) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("é 漢字 שלום 🙂 e\u0301", "é 漢字 שלום 🙂 e\u0301"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\x00b\x08c\x7f", "a\\x00b\\x08c\\x7f"),
        ("one\r\ntwo\rthree", "one\ntwothree"),
        ("\u202egnp.exe\u202c \u2066x\u2069", "gnp.exe x"),
        ("zero\u200bwidth\ufeff \u200e\u00adx", "zerowidth x"),
        ("\U000e0041hidden", "hidden"),
        ("a\u2028b\u2029c", "a\nb\nc"),
        ("\ud83d", "\ufffd"),
    ],
)
def test_what_is_shown(text, shown):
    assert sanitise(text) == shown


def test_no_control_comes_through_however_the_text_is_cut():
    draw = random.Random(0)
    text = "".join(chr(draw.choice([draw.randrange(0x100), draw.randrange(0x2000, 0x2070)])) for _ in range(2000))
    text += "\x1b[2J\x1b]52;c;aGk=\x07"
    shown = "".join(sanitise(text[start : start + 3]) for start in range(0, len(text), 3))
    assert shown == sanitise(text)
    controls = (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F))
    assert not set(shown) & set(map(chr, controls))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("token hf_abcDEF0123456789 refused", "token [token] refused"),
        ("{'authorization': 'Bearer abc.def-123'}", "{'authorization': 'Bearer [token]'}"),
        ("judge: sk-proj-abcDEF0123456789_x", "judge: [token]"),
        ("task-specific, disk-based-embeddings", "task-specific, disk-based-embeddings"),
        ("PUT https://store/x/y?X-Amz-Signature=abc&b=1 failed", "PUT https://store/x/y failed"),
        ("https://me:pass@proxy:8080/x", "https://proxy:8080/x"),
        ("hf_hub_download, hf_api and `hf auth login`", "hf_hub_download, hf_api and `hf auth login`"),
        ("https://huggingface.co/settings/tokens", "https://huggingface.co/settings/tokens"),
    ],
)
def test_masked(text, expected):
    assert mask(text) == expected


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_token_of_another_form_is_known_from_where_it_is_kept(monkeypatch, variable):
    monkeypatch.setenv(variable, "looks-like-nothing")
    assert mask("it was looks-like-nothing.") == "it was [token]."


def test_a_token_that_was_saved_by_logging_in_is_known(monkeypatch, tmp_path):
    (tmp_path / "token").write_text("looks-like-nothing\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert mask("it was looks-like-nothing.") == "it was [token]."


def test_a_log_is_masked_for_a_while(caplog):
    logger = logging.getLogger("test_secrets")
    with masked_log("test_secrets"):
        logger.warning("%s for %s", "hf_abcDEF0123456789", "https://store/x?sig=1")
    logger.warning("hf_abcDEF0123456789")
    assert [record.getMessage() for record in caplog.records] == ["[token] for https://store/x", "hf_abcDEF0123456789"]

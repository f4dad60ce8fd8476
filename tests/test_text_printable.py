"""What may go to a terminal."""

import random

import pytest

from empathy_trl.text import printable


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
    assert printable(text) == shown


def test_no_control_comes_through_however_the_text_is_cut():
    draw = random.Random(0)
    text = "".join(chr(draw.choice([draw.randrange(0x100), draw.randrange(0x2000, 0x2070)])) for _ in range(2000))
    text += "\x1b[2J\x1b]52;c;aGk=\x07"
    shown = "".join(printable(text[start : start + 3]) for start in range(0, len(text), 3))
    assert shown == printable(text)
    assert not set(shown) & {
        chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F))
    }

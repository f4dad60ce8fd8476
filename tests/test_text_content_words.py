"""What a text speaks of: stop words, stems, contractions and scripts."""

import pytest

from empathy_trl.text import STOP_WORDS, content_words, cosine, lower_words, stem


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
    "words",
    [
        ("plan", "plans", "planned", "planning"),
        ("worry", "worries", "worried", "worrying"),
        ("friend", "friends", "friendly", "friendship"),
        ("move", "moved", "moves", "moving"),
        ("decorate", "decoration"),
        ("class", "classes"),
    ],
)
def test_inflections_have_one_stem(words):
    assert len({stem(word) for word in words}) == 1


def test_different_words_have_different_stems():
    words = ["sister", "system", "shelf", "shell", "book", "boot", "bring", "thing", "red", "reed", "bus", "busy"]
    assert len({stem(word) for word in words}) == len(words)


def test_stop_words_are_written_as_they_are_looked_up():
    assert all(lower_words(word) == [word] for word in STOP_WORDS)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"a"}, {"a"}, 1.0),
        ({"a", "b"}, {"b", "c"}, 0.5),
        ({"a"}, {"a", "b", "c", "d"}, 0.5),
        ({"a"}, {"b"}, 0.0),
        (set(), {"a"}, 0.0),
        (set(), set(), 0.0),
    ],
)
def test_cosine(first, second, expected):
    assert cosine(first, second) == expected == cosine(second, first)

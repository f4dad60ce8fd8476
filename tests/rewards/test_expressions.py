"""The lexicon of `reaction`: which emotion, which expression, and whether they fit."""

import pytest

from empathy_trl.rewards.staged import CLASHING, EXPRESSIONS, FEELINGS, FITTING, emotions, expressions, fit


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("My dog died.", {"sad"}),
        ("I'm GRIEVING, and so lonely, though I laughed once.", {"sad"}),
        ("He passed away", {"sad"}),
        ("I can’t wait!", {"joyful"}),
        ("I am fed up. How rude!", {"angry"}),
        ("I'm terrified of the exam", {"afraid"}),
        ("I laughed and I cried", {"sad", "joyful"}),
        ("I am not happy", {"neutral"}),
        ("I'm not very happy about it", {"neutral"}),
        ("I don't feel sad", {"neutral"}),
        ("She made a saddle.", {"neutral"}),
        ("The bus leaves at nine.", {"neutral"}),
        ("", {"neutral"}),
    ],
)
def test_emotions(turn, expected):
    assert emotions(turn) == expected


@pytest.mark.parametrize(
    ("reaction", "expected"),
    [
        ("*smiles warmly* + *leans in*", {"warm", "curious"}),
        ("*Grinning* + *claps*", {"joyful"}),
        ("*brow furrowed* + *sighs*", {"concerned", "curious"}),
        ("*deep breath* + *settles*", {"calm"}),
        ("*eyes widen*", {"surprised"}),
        ("*rolls eyes* + *arms crossed*", {"hostile"}),
        ("*without judgment, never mocking*", set()),
        ("*sits*", set()),
    ],
)
def test_expressions(reaction, expected):
    assert expressions(reaction) == expected


@pytest.mark.parametrize(
    ("reaction", "turn", "expected", "why"),
    [
        ("*gentle look*", "I cried", 1.0, "fits"),
        ("*grins*", "I cried", 0.0, "contradicts"),
        ("*gentle grin*", "I cried", 0.5, "both"),
        ("*eyes widen*", "I cried", 0.5, "neither"),
        ("*grins*", "I cried, I laughed", 1.0, "fits one of mixed emotions"),
        ("*glares*", "I cried, I laughed", 0.0, "contradicts all"),
        ("*sits*", "", 0.5, "no evidence on either side"),
    ],
)
def test_fit(reaction, turn, expected, why):
    assert fit(reaction, turn) == expected, why


def test_warmth_fits_and_hostility_contradicts_every_emotion():
    assert {*FITTING} == {*CLASHING} == {*FEELINGS, "neutral"}
    for emotion in FITTING:
        assert "warm" in FITTING[emotion] and "hostile" in CLASHING[emotion]
        assert not FITTING[emotion] & CLASHING[emotion]
        assert FITTING[emotion] | CLASHING[emotion] <= {*EXPRESSIONS}


@pytest.mark.parametrize("entries", [*FEELINGS.values(), *EXPRESSIONS.values()])
def test_nothing_is_listed_twice(entries):
    outside = " ".join(entries.split('"')[::2]).split()
    assert len(set(outside)) == len(outside)
    stems = tuple(entry.rstrip("*") for entry in outside if entry.endswith("*"))
    assert not [entry for entry in outside if not entry.endswith("*") and entry.startswith(stems)]

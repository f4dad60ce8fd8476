"""`recommendation` as tables of (reply, columns, expected, why), one for each mode."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.recommendation import Recommendation, names_title

SALT, IT = "The Salt Line (2011)", "It (2017)"


def reward(reply, mode="match", slots="placeholder", **columns):
    (value,) = Recommendation(mode=mode, slots=slots)(["p"], [reply], **{key: [each] for key, each in columns.items()})
    return value


@pytest.mark.parametrize(
    "reply, expected, why",
    [
        ("Try <movie>!", 1, "a film"),
        ("<movie> <movie>", 1, "two are not better than one"),
        ("Try < movie >, a good movie", 0, "not the placeholder"),
        ("<answer>Try <movie>!</answer>", 1, "in the tag of the reply"),
        ("<reasoning><movie></reasoning><answer>Hm</answer>", 0, "not in the reply"),
    ],
)
def test_any(reply, expected, why):
    assert reward(reply, "any") == expected, why


@pytest.mark.parametrize(
    "reply, recommends, expected, why",
    [
        ("Try <movie>!", True, 1, "both do"),
        ("Hello!", False, 1, "neither does"),
        ("Try <movie>!", False, 0, "too early"),
        ("Hello!", True, 0, "missed"),
        ("", False, 0, "an empty reply is never right"),
        ("Try <movie>!", None, None, "nothing is known"),
    ],
)
def test_match(reply, recommends, expected, why):
    assert reward(reply, recommends=recommends) == expected, why


@pytest.mark.parametrize(
    "reply, movies, context, recommends, expected, why",
    [
        ("Try The Salt Line", [SALT], [], True, 1, "the reference's film"),
        ("Yes, the salt line!", [], [SALT], True, 1, "a film of the dialogue"),
        ("Try Jaws (1975)", [], [], True, 1, "any film with its year"),
        ("It is late, in 2011 too", [IT], [], False, 1, "a title of one word needs its year"),
        ("Hello", [SALT], [], True, 0, "none"),
        ("Hello", None, None, False, 1, "no titles"),
    ],
)
def test_match_of_titles(reply, movies, context, recommends, expected, why):
    columns = {"movies": movies, "liked": [], "context_movies": context, "recommends": recommends}
    assert reward(reply, slots="title", **columns) == expected, why


@pytest.mark.parametrize(
    "reply, liked, context, expected, why",
    [
        ("Try the SALT line.", [SALT], [], 1, "in any case, without the year"),
        ("Try The Salt Line (2011).", [SALT, IT], [], 1, "with it"),
        ("Try It (2017).", [SALT, IT], [], 1, "one of several"),
        ("It is good", [IT], [], 0, "a common word"),
        ("The Salt Lines", [SALT], [], 0, "whole words"),
        ("Try Jaws (1975)", [SALT], [], 0, "another film"),
        ("Yes, The Salt Line is good", [SALT], [SALT], None, "named before: no recommendation could please"),
        ("Try The Salt Line", [SALT, IT], [IT], 1, "not named yet"),
        ("Try The Salt Line", [], [], None, "the seeker liked nothing"),
        ("Try The Salt Line", None, None, None, "nothing is known"),
    ],
)
def test_liked(reply, liked, context, expected, why):
    assert reward(reply, "liked", "title", liked=liked, context_movies=context) == expected, why


@pytest.mark.parametrize(
    "text, title, expected",
    [
        ("I saw E.T. the Extra-Terrestrial twice", "E.T. the Extra-Terrestrial (1982)", True),
        ("see (500) Days of Summer", "(500) Days of Summer (2009)", True),
        ("Psycho!", "Psycho", True),  # has no year
        ("Psycho!", "Psycho (1960)", False),
        ("Psycho  (1960)", "Psycho (1960)", True),
        ("2012", "2012 (2009)", False),
        ("Ｔhe Salt\u200b Line", SALT, True),
        ("anything", "", False),
    ],
)
def test_titles_in_texts(text, title, expected):
    assert names_title(text, title) is expected


def test_a_placeholder_of_ones_own():
    assert Recommendation(mode="any", placeholder="[FILM]")(None, ["see [FILM]", "see <movie>"]) == [1.0, 0.0]


def test_data_that_writes_films_otherwise_is_noticed():
    columns = {"recommends": [False, True], "reference": ["Hi", "Try Jaws (1975)"]}
    message = r"recommendation\.slots: 'placeholder', but .* 'Try Jaws \(1975\)' recommends one"
    with pytest.raises(UserError, match=message):
        Recommendation()(None, ["a", "b"], **columns)


@pytest.mark.parametrize(
    "settings, columns, message",
    [
        (("match", "placeholder"), {}, "rewards.recommendation: needs a column `recommends` in the data"),
        (("any", "title"), {}, "rewards.recommendation: needs a column `movies` in the data"),
        (("liked", "title"), {}, "rewards.recommendation: needs a column `liked` in the data"),
        (("match", "placeholder"), {"recommends": "yes"}, "the column `recommends` holds 'yes'; expected true, false or"),
        (("liked", "title"), {"liked": "Jaws", "context_movies": []}, "the column `liked` holds 'Jaws'; expected a list"),
        (("any", "title"), {"movies": 3, "liked": [], "context_movies": []}, "the column `movies` holds 3; expected a"),
    ],
)  # fmt: skip
def test_columns_that_are_missing_or_of_another_kind(settings, columns, message):
    with pytest.raises(UserError, match=message):
        reward("Hi", *settings, **columns)

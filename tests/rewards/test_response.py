"""`response` as a table of (response, user's turn, expected, why): length × (1 + relevance) / 2 × originality × pace."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.staged import Response, relevance, speaking_seconds
from tests.rewards.three_parts import PROMPT, REPLY, TURN, reply

QUOTE = "the flat is so quiet now"
FILLER = [f"word{number}" for number in range(200)]


def about(count, *topics):
    """Return a response of `count` words, some of which are given."""
    return " ".join([*topics, *FILLER[: count - len(topics)]])


CASES = [
    (about(30, "sister", "Oslo"), TURN, 1.0, "shortest"),
    (about(150, "sister", "Oslo"), TURN, 1.0, "longest"),
    (about(25, "sister", "Oslo"), TURN, 0.5, "half way down the slope"),
    (about(155, "sister", "Oslo"), TURN, 0.5, "half way down the other"),
    (about(20, "sister", "Oslo"), TURN, 0.0, "far too short"),
    (about(40, "sister"), TURN, 0.75, "one word in common"),
    (about(40), TURN, 0.5, "about something else"),
    (about(40, "sisters", "moving"), TURN, 1.0, "inflected"),
    (about(40), "Well, I don't know.", 1.0, "a turn about nothing"),
    (about(40), "", 1.0, "no turn"),
    (about(40, "toast"), "Toast!", 1.0, "a turn about one thing"),
    (about(40, *QUOTE.split()), TURN, 1.0, "quoting a phrase is free"),
    (about(60), about(60), 0.0, "the turn again"),
    ("", TURN, 0.0, "empty"),
    ("... !", TURN, 0.0, "no word"),
]


@pytest.mark.parametrize(("response", "turn", "expected", "why"), CASES)
@pytest.mark.parametrize("chat", [False, True], ids=["text", "messages"])
def test_table(response, turn, expected, why, chat):
    completion = reply(respond=response)
    shown = [{"role": "assistant", "content": completion}] if chat else completion
    assert Response(softness=10)([[{"role": "user", "content": turn}]], [shown]) == [pytest.approx(expected)], why


def test_a_copy_of_a_long_turn_earns_nothing_and_more_of_its_own_earns_more():
    turn = about(60)
    prompt = [{"role": "user", "content": turn}]
    own = [" ".join([turn, *(f"own{i}" for i in range(count))]) for count in (0, 10, 30, 60)]
    earned = [Response()([prompt], [reply(respond=text)])[0] for text in own]
    assert earned[0] == 0.0 and earned == sorted(earned) and len(set(earned)) == 4 and earned[-1] < 0.75


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("", 0.0, "nothing"),
        ("one two three four five", 2.0, "150 words a minute"),
        ("One two. Three? Four... Five!", 4.0, "half a second after each of four sentences"),
        ("It is 3.5 at 10.30 now", 8 * 0.4, "points in numbers; a point parts words"),
        ("我很难过。你好。", 6 * 0.4 + 1.0, "no spaces"),
    ],
)
def test_speaking_seconds(text, expected, why):
    assert speaking_seconds(text) == pytest.approx(expected), why


def test_a_response_that_takes_too_long_to_say_earns_less():
    completion = reply(respond=about(50, "sister", "Oslo"))  # 20 seconds
    earned = [Response(max_seconds=seconds)([PROMPT], [completion])[0] for seconds in (20.0, 16.0, 13.0)]
    assert earned == [1.0, pytest.approx(0.5), 0.0]


def test_speaking_time_is_logged():
    logged = {}
    completions = [reply(respond=about(50)), reply(respond=about(25)), "Hello.", ""]
    Response()([PROMPT] * 4, completions, log_metric=logged.__setitem__)
    assert logged == {"response/speaking_seconds": pytest.approx(15.0)}  # of those who say something
    Response()([PROMPT], [""], log_metric=pytest.fail)


@pytest.mark.parametrize(
    ("spoken", "heard", "expected"),
    [("sister oslo", "sister oslo flat", 1.0), ("sister", "sister oslo flat", 0.5), ("", "sister", 0.0), ("", "", 1.0)],
)
def test_relevance(spoken, heard, expected):
    assert relevance(spoken.split(), heard.split()) == expected


def test_a_broken_part_beside_it_costs_nothing():
    assert Response()([PROMPT] * 3, [REPLY, REPLY.replace("<react>", ""), REPLY.replace("<respond>", "")]) == [1, 1, 0]


def test_parameters():
    assert list(Response().tags) == ["respond"]
    with pytest.raises(UserError, match="max_seconds: expected more than 0, got 0"):
        Response(max_seconds=0)
    with pytest.raises(UserError, match="got min 9 and max 3"):
        Response(min=9, max=3)

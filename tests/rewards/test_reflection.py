"""`reflection` as a table of (reflection, expected, why): length × (1 + depth) / 2 × originality."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.staged import Reflection, depth
from empathy_trl.text import lower_words
from tests.rewards.three_parts import PROMPT, REFLECTION, REPLY, RESPONSE, TURN, reply

NOTHING = " ".join(["and", "so", "it", "is"] * 6)
HURRIED = REFLECTION.replace("may", "must").replace("might", "must").replace("could", "must").replace("If", "When")
ELSEWHERE = (
    "Perhaps cats chase string, dogs dig holes, foxes steal hens, owls watch mice, bees find clover, eels swim far away"
)
CASES = [
    (REFLECTION, 1.0, "grounded, new and looking ahead"),
    (HURRIED, 5 / 6, "no outlook"),
    (ELSEWHERE, 5 / 6, "about something else"),
    (NOTHING, 0.5, "about nothing"),
    (f"{NOTHING} perhaps", 2 / 3, "a word of the list alone"),
    (f"Perhaps her sister, the flat, the shelf. {NOTHING}", 5 / 6, "nothing new"),
    (TURN, 0.0, "the user's turn"),
    (RESPONSE, 0.0, "the response"),
    ("Her sister might visit.", 0.0, "too short"),
    (REFLECTION + " So be it." * 40, 0.0, "too long"),
    ("", 0.0, "empty"),
    ("... !", 0.0, "no word"),
]


@pytest.mark.parametrize(("reflection", "expected", "why"), CASES)
@pytest.mark.parametrize("chat", [False, True], ids=["text", "messages"])
def test_table(reflection, expected, why, chat):
    completion = reply(reflect=reflection)
    shown = [{"role": "assistant", "content": completion}] if chat else completion
    assert Reflection()([PROMPT], [shown]) == [pytest.approx(expected)], why


@pytest.mark.parametrize(
    ("thought", "expected", "why"),
    [
        ("sister oslo trip visit might", 1.0, "all three"),
        ("sister oslo trip visit", 2 / 3, "no outlook"),
        ("sister trip visit might", (0.5 + 1 + 1) / 3, "one word in common"),
        ("sister oslo flat trip might", (1 + 0.5 + 1) / 3, "a quarter of its words new"),
        ("sister oslo might", 2 / 3, "nothing new"),
        ("trip visit might", 2 / 3, "not grounded"),
        ("might", 1 / 3, "the list decides on a third"),
        ("and so", 0.0, "nothing"),
    ],
)
def test_depth(thought, expected, why):
    assert depth(thought.split(), [["sister"], ["oslo", "flat"]]) == pytest.approx(expected), why


def test_half_a_copy_earns_half_of_an_original():
    words = RESPONSE.split()
    earned = [
        Reflection()([PROMPT], [reply(reflect=" ".join([*words[:count], REFLECTION]))])[0] for count in (0, 6, 20, 37)
    ]
    assert earned[0] == earned[1] == 1.0 > earned[2] > earned[3] > 0.5


def test_without_a_response_the_turn_is_what_was_said():
    (whole,) = Reflection()([PROMPT], [REPLY])
    assert Reflection()([PROMPT], [REPLY.replace("</respond>", "")]) == [pytest.approx(whole)]
    assert Reflection()([PROMPT], [REPLY.replace("</reflect>", "")]) == [0.0]
    assert depth(lower_words(REFLECTION), [lower_words(TURN)]) == 1.0


def test_parameters():
    assert list(Reflection().tags) == ["respond", "reflect"]
    assert Reflection(min=1, max=5, softness=0)([PROMPT], [REPLY]) == [0.0]
    with pytest.raises(UserError, match="got min 9 and max 3"):
        Reflection(min=9, max=3)

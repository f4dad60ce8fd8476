"""`reaction` as a table of (reaction, user's turn, expected, why): grammar × brevity × (1 + fit) / 2."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.staged import Reaction, grammar
from tests.rewards.three_parts import PROMPT, REPLY, reply

SAD, GLAD, PLAIN = "My dog died and I can't stop crying.", "I won! I am so happy!", "The bus leaves at nine."
FITS = "*warm smile* + *leans in*"
CASES = [
    (FITS, SAD, 1.0, "as asked"),
    ("*grins broadly* + *bounces*", SAD, 0.5, "a grin at grief"),
    ("*grins broadly* + *bounces*", GLAD, 1.0, "a grin at joy"),
    ("*frowns* + *sighs*", GLAD, 0.5, "a frown at joy"),
    ("*scowls* + *arms crossed*", PLAIN, 0.5, "hostile to anybody"),
    ("*looks* + *sits*", SAD, 0.75, "no expression that the lexicon knows"),
    (
        "*grins* + *sits*",
        PLAIN,
        0.75,
        "no emotion that the lexicon knows, and a reaction that would not suit every one",
    ),
    (FITS, PLAIN, 1.0, "warmth suits everybody"),
    (FITS, "", 1.0, "no turn"),
    ("*warm smile*", SAD, 0.5, "one phrase"),
    ("*warm smile, leaning in*", SAD, 1.0, "commas inside the stars"),
    ("*warm* + *gentle* posture", SAD, 1.0, "a word behind a star"),
    ("warm smile + leans in", SAD, 0.0, "no stars"),
    ("*warm* " + "word " * 24, SAD, 0.25, "half way down the slope, and another form"),
    ("*warm* + *" + "gently " * 29 + "*", SAD, 0.0, "too long to be taken in at once"),
    ("*warm* + *" + "gently " * 19 + "*", SAD, 1.0, "20 words"),
    ("", SAD, 0.0, "empty"),
    ("* * + * *", SAD, 0.0, "stars around nothing"),
]


@pytest.mark.parametrize(("reaction", "turn", "expected", "why"), CASES)
@pytest.mark.parametrize("chat", [False, True], ids=["text", "messages"])
def test_table(reaction, turn, expected, why, chat):
    completion = reply(react=reaction)
    shown = [{"role": "assistant", "content": completion}] if chat else completion
    assert Reaction()([[{"role": "user", "content": turn}]], [shown]) == [pytest.approx(expected)], why


@pytest.mark.parametrize(
    ("reaction", "expected", "why"),
    [
        ("*a* + *b*", 1.0, "as asked"),
        ("*a*+*b*+*c*", 1.0, "three, without spaces"),
        ("*a* face + *b*\n+ *c* posture", 1.0, "words behind stars, a new line"),
        ("*a + b*", 1.0, "a plus inside the stars"),
        ("*a*", 0.5, "one phrase"),
        ("*a* + *A!*", 0.5, "the same twice"),
        ("*a* *b*", 0.5, "not joined"),
        ("*a* + b", 0.5, "one of two starred"),
        ("Oh! *a* + *b*", 0.5, "speaks first"),
        ("*a* + *b* and then some", 0.5, "goes on"),
        ("*a", 0.0, "an open star"),
        ("a + b", 0.0, "no stars"),
        ("***", 0.0, "only stars"),
        ("*+* + *,*", 0.0, "no word"),
        ("*微笑* + *点头*", 1.0, "any script"),
    ],
)
def test_grammar(reaction, expected, why):
    assert grammar(reaction) == expected, why


def test_a_broken_part_beside_it_costs_nothing():
    (whole,) = Reaction()([PROMPT], [REPLY])
    assert Reaction()([PROMPT], [REPLY.replace("</reflect>", "")]) == [whole] == [1.0]
    assert Reaction()([PROMPT], [REPLY.replace("</react>", "")]) == [0.0]


def test_tags_that_the_user_types_are_not_read():
    prompt = [{"role": "user", "content": f"<react>{FITS}</react>"}]
    assert Reaction()([prompt], ["Hello."]) == [0.0]


def test_parameters():
    assert Reaction(max_words=2, softness=0)([PROMPT], [REPLY]) == [0.0]
    assert Reaction(max_words=3, softness=4)([PROMPT], [REPLY]) == [0.5]
    assert list(Reaction().tags) == ["react"]
    with pytest.raises(UserError, match="max_words: expected 1 or more, got 0"):
        Reaction(max_words=0)
    with pytest.raises(UserError, match="softness: -1 must not be below 0"):
        Reaction(softness=-1)

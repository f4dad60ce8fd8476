"""Rewards of a reply in three parts: each by itself, all together, on people's replies and on cheap tricks."""

import math
import time

import pytest
from datasets import Dataset

from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.explain import explain_rewards
from empathy_trl.rewards.staged import (
    CLASHING,
    EXPRESSIONS,
    FEELINGS,
    FITTING,
    Reaction,
    Reflection,
    Response,
    depth,
    emotions,
    expressions,
    fit,
    grammar,
    originality,
    speaking_seconds,
)
from empathy_trl.tags import PARTS, write_parts
from empathy_trl.text import lower_words
from tests.rewards.three_parts import NEXT, OTHERS, PROMPT, REFLECTION, REPLY, RESPONSE, TURN, reply
from tests.trainers.settings import make_trainer

# copying
SOURCE = lower_words("My dog ran into the woods and never came back.")


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("that must have been a long and lonely night", 1.0, "nothing"),
        ("ran into the woods you say and nobody has seen a trace of him since", 1.0, "quoting a phrase is free"),
        ("my dog ran into oh how sad", 1 - (2 / 5 - 1 / 4) / (3 / 4), "2 of 5 trigrams, a quarter is free"),
        ("my dog ran into the woods and never came back", 0.0, "everything"),
        ("my dog ran into the woods and", 0.0, "a part, word for word"),
        ("woods", 0.0, "one word"),
        ("back woods", 1.0, "two words that do not stand there side by side"),
        ("", 0.0, "nothing is not original"),
    ],
)
def test_copying_table(text, expected, why):
    assert originality(lower_words(text), [SOURCE]) == pytest.approx(expected), why


def test_what_stands_in_any_source_is_copied():
    text = lower_words("into the woods you are right")
    assert originality(text, [SOURCE]) == 1.0
    assert originality(text, [SOURCE, lower_words("You are right!")]) == pytest.approx(2 / 3)
    assert originality(text, []) == 1.0


# response
QUOTE = "the flat is so quiet now"
FILLER = [f"word{number}" for number in range(200)]


def about(count, *topics):
    """Return a response of `count` words, some of which are given."""
    return " ".join([*topics, *FILLER[: count - len(topics)]])


RESPONSE_CASES = [
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
]


def test_a_copy_of_a_long_turn_earns_nothing_and_more_of_its_own_earns_more():
    turn = about(60)
    prompt = [{"role": "user", "content": turn}]
    own = [" ".join([turn, *(f"own{i}" for i in range(count))]) for count in (0, 10, 30, 60)]
    earned = [Response()([prompt], [reply(respond=text)])[0] for text in own]
    assert earned[0] == 0.0 and earned == sorted(earned) and len(set(earned)) == 4 and earned[-1] < 0.75


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


# reaction
SAD, GLAD, PLAIN = "My dog died and I can't stop crying.", "I won! I am so happy!", "The bus leaves at nine."
FITS = "*warm smile* + *leans in*"
REACTION_CASES = [
    (FITS, SAD, 1.0, "as asked"),
    ("*grins broadly* + *bounces*", SAD, 0.5, "a grin at grief"),
    ("*grins broadly* + *bounces*", GLAD, 1.0, "a grin at joy"),
    ("*looks* + *sits*", SAD, 0.75, "no expression that the lexicon knows"),
    ("*grins* + *sits*", PLAIN, 0.75, "no emotion that the lexicon knows, and a reaction that would not suit every one"),
    (FITS, PLAIN, 1.0, "warmth suits everybody"),
    (FITS, "", 1.0, "no turn"),
    ("*warm smile, leaning in*", SAD, 1.0, "commas inside the stars"),
    ("*warm* + *gentle* posture", SAD, 1.0, "a word behind a star"),
    ("*warm* " + "word " * 24, SAD, 0.25, "half way down the slope, and another form"),
    ("*warm* + *" + "gently " * 29 + "*", SAD, 0.0, "too long to be taken in at once"),
    ("*warm* + *" + "gently " * 19 + "*", SAD, 1.0, "20 words"),
    ("", SAD, 0.0, "empty"),
]  # fmt: skip


def test_reaction_parameters():
    assert Reaction(max_words=2, softness=0)([PROMPT], [REPLY]) == [0.0]
    assert Reaction(max_words=3, softness=4)([PROMPT], [REPLY]) == [0.5]
    tags = [list(kind().tags) for kind in (Reaction, Response, Reflection)]
    assert tags == [["react"], ["respond"], ["respond", "reflect"]]


# expressions
@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (emotions, "My dog died.", {"sad"}),
        (emotions, "I'm GRIEVING, and so lonely, though I laughed once.", {"sad"}),
        (emotions, "He passed away", {"sad"}),
        (emotions, "I can’t wait!", {"joyful"}),
        (emotions, "I am fed up. How rude!", {"angry"}),
        (emotions, "I'm terrified of the exam", {"afraid"}),
        (emotions, "I laughed and I cried", {"sad", "joyful"}),
        (emotions, "I am not happy", {"neutral"}),
        (emotions, "I'm not very happy about it", {"neutral"}),
        (emotions, "I don't feel sad", {"neutral"}),
        (emotions, "She made a saddle.", {"neutral"}),
        (emotions, "The bus leaves at nine.", {"neutral"}),
        (emotions, "", {"neutral"}),
        (expressions, "*smiles warmly* + *leans in*", {"warm", "curious"}),
        (expressions, "*Grinning* + *claps*", {"joyful"}),
        (expressions, "*brow furrowed* + *sighs*", {"concerned", "curious"}),
        (expressions, "*deep breath* + *settles*", {"calm"}),
        (expressions, "*eyes widen*", {"surprised"}),
        (expressions, "*rolls eyes* + *arms crossed*", {"hostile"}),
        (expressions, "*without judgment, never mocking*", set()),
        (expressions, "*sits*", set()),
    ],
)
def test_what_the_lexicons_find(function, text, expected):
    assert function(text) == expected


@pytest.mark.parametrize(
    ("function", "texts", "expected", "why"),
    [
        (speaking_seconds, [""], 0.0, "nothing"),
        (speaking_seconds, ["one two three four five"], 2.0, "150 words a minute"),
        (speaking_seconds, ["One two. Three? Four... Five!"], 4.0, "half a second after each of four sentences"),
        (speaking_seconds, ["It is 3.5 at 10.30 now"], 8 * 0.4, "points in numbers; a point parts words"),
        (speaking_seconds, ["我很难过。你好。"], 6 * 0.4 + 1.0, "no spaces"),
        (grammar, ["*a* + *b*"], 1.0, "as asked"),
        (grammar, ["*a*+*b*+*c*"], 1.0, "three, without spaces"),
        (grammar, ["*a* face + *b*\n+ *c* posture"], 1.0, "words behind stars, a new line"),
        (grammar, ["*a + b*"], 1.0, "a plus inside the stars"),
        (grammar, ["*a* + *A!*"], 0.5, "the same twice"),
        (grammar, ["*a* *b*"], 0.5, "not joined"),
        (grammar, ["*a* + b"], 0.5, "one of two starred"),
        (grammar, ["Oh! *a* + *b*"], 0.5, "speaks first"),
        (grammar, ["*a* + *b* and then some"], 0.5, "goes on"),
        (grammar, ["*a"], 0.0, "an open star"),
        (grammar, ["a + b"], 0.0, "no stars"),
        (grammar, ["*+* + *,*"], 0.0, "no word"),
        (grammar, ["*微笑* + *点头*"], 1.0, "any script"),
        (fit, ["*gentle look*", "I cried"], 1.0, "fits"),
        (fit, ["*grins*", "I cried"], 0.0, "contradicts"),
        (fit, ["*gentle grin*", "I cried"], 0.5, "both"),
        (fit, ["*eyes widen*", "I cried"], 0.5, "neither"),
        (fit, ["*grins*", "I cried, I laughed"], 1.0, "fits one of mixed emotions"),
        (fit, ["*glares*", "I cried, I laughed"], 0.0, "contradicts all"),
        (fit, ["*sits*", ""], 0.5, "no evidence on either side"),
    ],
)
def test_what_the_rewards_are_made_of(function, texts, expected, why):
    assert function(*texts) == pytest.approx(expected), why


def test_warmth_fits_and_hostility_contradicts_every_emotion():
    assert {*FITTING} == {*CLASHING} == {*FEELINGS, "neutral"}
    for emotion in FITTING:
        assert "warm" in FITTING[emotion] and "hostile" in CLASHING[emotion]
        assert not FITTING[emotion] & CLASHING[emotion]
        assert FITTING[emotion] | CLASHING[emotion] <= {*EXPRESSIONS}


# reflection
NOTHING = " ".join(["and", "so", "it", "is"] * 6)
HURRIED = REFLECTION.replace("may", "must").replace("might", "must").replace("could", "must").replace("If", "When")
ELSEWHERE = (
    "Perhaps cats chase string, dogs dig holes, foxes steal hens, owls watch mice, bees find clover, eels swim far away"
)
REFLECTION_CASES = [
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
]


TABLES = [
    *((Response(softness=10), "respond", *case) for case in RESPONSE_CASES),
    *((Reaction(), "react", *case) for case in REACTION_CASES),
    *((Reflection(), "reflect", text, TURN, expected, why) for text, expected, why in REFLECTION_CASES),
]


@pytest.mark.parametrize(("reward", "part", "text", "turn", "expected", "why"), TABLES)
def test_tables(reward, part, text, turn, expected, why):
    prompt = [{"role": "user", "content": turn}]
    assert reward([prompt], [reply(**{part: text})]) == [pytest.approx(expected)], why


@pytest.mark.parametrize(
    ("thought", "expected", "why"),
    [
        ("sister oslo trip visit might", 1.0, "all three"),
        ("sister oslo trip visit", 2 / 3, "no outlook"),
        ("sister trip visit might", (0.5 + 1 + 1) / 3, "one word in common"),
        ("sister oslo flat trip might", (1 + 0.5 + 1) / 3, "a quarter of its words new"),
        ("sister oslo might", 2 / 3, "nothing new"),
        ("trip visit might", 2 / 3, "not grounded"),
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


# three_parts
NAMES = ["stage_format", "reaction", "response", "reflection", "foresight"]


def earned(completion, prompt=PROMPT, following=NEXT, others=OTHERS):
    """Return reward -> what one completion earns."""
    rewards = {name: {} for name in NAMES}
    shown = explain_rewards(rewards, [prompt], [completion], next_user=[following], other_users=[others])
    return {name: shown.rows[0][name] for name in NAMES}


def test_a_good_reply_earns_the_most():
    values = earned(REPLY)
    assert values == {name: 1.0 for name in NAMES[:4]} | {"foresight": pytest.approx(0.66, abs=0.01)}


KINDS = {
    "empty": "",
    "no messages": [],
    "no content": [{"role": "assistant", "content": None}],
    "no tags": "I am sorry to hear that.",
    "unclosed": "<react>*a* + *b*<respond>Hello<reflect>Well",
    "nested": "<react><respond><reflect>Hello</reflect></respond></react>",
    "repeated": REPLY * 2,
    "invisible": write_parts(dict.fromkeys(PARTS, "\u200b\u202e\x07")),
    "punctuation": write_parts(dict.fromkeys(PARTS, "*...* + *!?*")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_nothing_earns_nothing_but_for_its_format(kind):
    values = earned(KINDS[kind])
    assert values.pop("stage_format") == {"invisible": 1.0, "punctuation": 1.0, "nested": 3 / 5}.get(kind, 0.0)
    # a reflection of punctuation, or the innermost of nested parts, is there and of no use
    assert values.pop("foresight") == (0.5 if kind in ("punctuation", "nested") else 0.0)
    assert not any(values.values())


def test_tags_in_the_users_turn_are_the_users():
    typed = [{"role": "user", "content": f"Say {REPLY}"}]
    assert not any(earned("Hello.", typed, following=REPLY, others=[REPLY]).values())
    unclosed = [{"role": "user", "content": f"</react> <respond> {TURN} <reflect>"}]
    assert earned(REPLY, unclosed) == earned(REPLY)


TEXTS = {
    "sentences": "I was so worried about the garden. " * 3000,
    "one word": "a" * 100_000,
    "spaces": "*" + " " * 100_000,
    "stars": "*" * 100_000,
    "pluses": "*a* + " * 16_000,
    "open stars": "*a b " * 20_000,
    "full stops": "." * 100_000,
    "negations": "not sad " * 12_500,
    "tags": "<react>" * 14_000,
    "Chinese": "我很难过。" * 6_700,
    "emoji": "😢👨‍👩‍👧" * 4_000,
    "surrogates": "\ud800 a\x00 \x1b[31m" * 8_000,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_long_texts_take_a_moment(kind):
    text = TEXTS[kind]
    prompt = [{"role": "user", "content": text}]
    start = time.process_time()
    for completion in (write_parts(dict.fromkeys(PARTS, text)), REPLY, text):
        values = earned(completion, prompt, following=text, others=[text, NEXT])
        assert all(math.isfinite(value) and 0 <= value <= 1 for value in values.values())
    assert time.process_time() - start < 3  # five rewards, three times; quadratic would be minutes


def test_a_trainer_hands_them_their_columns_and_logs_their_metrics(tiny_folder, tmp_path, monkeypatch):
    rows = Dataset.from_dict({"prompt": [PROMPT] * 2, "next_user": [NEXT, None], "other_users": [OTHERS, OTHERS]})
    rewards = [REWARDS[name]() for name in NAMES]
    trainer = make_trainer(tiny_folder, tmp_path, reward=rewards, train_dataset=rows, max_steps=1)
    said = [trainer.processing_class(text).input_ids for text in (REPLY, "Hello.")]
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda prompts, *_: (said * (len(prompts) // 2), None))
    trainer.train()
    row = next(row for row in trainer.state.log_history if "rewards/foresight/mean" in row)
    assert {name: row[f"rewards/{name}/mean"] for name in NAMES[:4]} == dict.fromkeys(NAMES[:4], 0.5)
    assert row["rewards/foresight/mean"] == pytest.approx(0.33, abs=0.01)  # of the row that has a next turn
    assert row["response/speaking_seconds"] == pytest.approx(18.7)
    assert row["foresight/next"] > row["foresight/others"] == 0.0

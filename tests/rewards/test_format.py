"""Rewards of the form as tables of (completion, expected, why): tags, lengths, ends and what is malformed."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.format import Format, FormatPenalty, Length, ReasoningLength, SentenceEnd, StageFormat
from tests.rewards.three_parts import REPLY

# format
CASES = [
    ("<reasoning>r</reasoning><answer>a</answer>", 1, 1.0, "as asked"),
    (" <reasoning>\nr\n</reasoning>\n\n<answer>a</answer>\n", 1, 1.0, "white space is free"),
    ("<reasoning>1 < 2 <b>é</b></reasoning><answer>a</answer>", 1, 1.0, "other markup in a body"),
    ("", 0, 0.0, "empty"),
    ("r a", 0, 0.0, "no tags"),
    ("<reasoning>r</reasoning>", 0, 0.25, "one of two"),
    ("<reasoning>r</reasoning><answer>a", 0, 0.25, "cut off"),
    ("</reasoning>r<reasoning><answer>a</answer>", 0, 0.25, "closed before it is opened"),
    ("<reasoning>r</reasoning><answer> </answer>", 0, 0.25, "empty answer"),
    ("<answer>a</answer><reasoning>r</reasoning>", 0, 0.5, "wrong order"),
    ("<reasoning>r<answer>a</answer></reasoning>", 0, 0.5, "nested"),
    ("<reasoning>r<answer></reasoning>a</answer>", 0, 0.5, "overlapping"),
    ("<reasoning>r</reasoning> so <answer>a</answer>", 0, 0.75, "text between"),
    ("Well <reasoning>r</reasoning><answer>a</answer>", 0, 0.75, "text before"),
    ("<reasoning>r</reasoning><answer>a</answer>!", 0, 0.75, "text after"),
    ("<reasoning>r</reasoning><answer>a</answer><answer>a</answer>", 0, 0.25, "repeated"),
    ("<reasoning>r</reasoning><answer>a</answer></answer>", 0, 0.25, "closed twice"),
    ("<Reasoning>r</Reasoning><answer>a</answer>", 0, 0.25, "tags are case-sensitive"),
]


@pytest.mark.parametrize(("completion", "full", "partial", "why"), CASES)
def test_format_table(completion, full, partial, why):
    assert Format()(["p"], [completion]) == [float(full)], why
    assert Format(partial=True)(["p"], [completion]) == [partial], why


@pytest.mark.parametrize(
    ("tags", "completion", "expected"),
    [
        (["react", "respond", "reflect"], "<react>a</react><respond>b</respond><reflect>c</reflect>", 1.0),
        (["react", "respond", "reflect"], "<react>a</react><reflect>c</reflect><respond>b</respond>", 3 / 5),
        (["answer"], "<answer>a</answer>", 1.0),
        (["answer"], "so <answer>a</answer>", 2 / 3),
        (["a", "b"], "<a><b></b></a>", 0.0),
    ],
)
def test_any_list_of_tags(tags, completion, expected):
    assert Format(tags=tags, partial=True)(["p"], [completion]) == [expected]


# stage_format
@pytest.mark.parametrize(
    ("completion", "expected"),
    [(REPLY, 1.0), ("Hello.", 0.0), ("<react>*a* + *b*</react>", 1 / 5), (REPLY.replace("</reflect>", ""), 2 / 5), (f"Well. {REPLY}", 4 / 5)],
)  # fmt: skip
def test_stage_format_is_format_with_partial_credit_for_three_parts(completion, expected):
    assert StageFormat()(["p"], [completion]) == [pytest.approx(expected)]
    assert StageFormat(partial=False)(["p"], [completion]) == [float(expected == 1)]


# length
LENGTH_CASES = [
    ("one two three", 1.0, "shortest"),
    ("one, two, three, four, five!", 1.0, "longest; punctuation is not counted"),
    ("one two", 0.75, "one short"),
    ("one two three four five six seven", 0.5, "two too many"),
    ("one " * 9, 0.0, "end of the slope"),
    ("", 0.0, "empty, although the slope would give 0.25"),
    ("...", 0.0, "no word"),
    ("你好世界", 1.0, "four characters"),
    ("<reasoning>so many words to think about it all</reasoning><respond>one two three</respond>", 1.0, "the reply only"),
]  # fmt: skip


def test_the_whole_completion_counts_if_no_tag_holds_the_reply():
    assert Length(min=2, max=2, softness=0, reply_tags=[])(["p"], ["<answer>"]) == [0.0]
    assert Length(min=3, max=3, softness=0, reply_tags=[])(["p"], ["<answer>so</answer>"]) == [1.0]


# reasoning_length
def reasoned(words):
    return f"<reasoning>{' '.join(['word'] * words)}</reasoning><answer>sad</answer>"


REASONING_LENGTH_CASES = [
    (reasoned(3), 1.0, "shortest"),
    (reasoned(5), 1.0, "longest"),
    (reasoned(2), 0.5, "one short: half way down the slope"),
    (reasoned(6), 0.5, "one too many"),
    (reasoned(1), 0.0, "end of the slope"),
    (reasoned(7), 0.0, "end of the other slope"),
    (reasoned(0), 0.0, "empty reasoning"),
    ("<reasoning>one,\n two\tthree</reasoning>", 1.0, "any white space separates words"),
    ("one two three four", 0.0, "no reasoning tag"),
    ("<reasoning>one two three four", 0.0, "cut off"),
    (reasoned(4) + reasoned(4), 0.0, "reasons twice"),
]


@pytest.mark.parametrize(("tokens", "expected"), [(9, 0.75), (10, 1.0), (20, 1.0), (22, 0.5), (24, 0.0), (0, 0.0)])
def test_tokens_are_those_of_the_whole_completion(tokens, expected):
    reward = ReasoningLength(min=10, max=20, unit="tokens", softness=4)
    assert reward(["p"], ["<reasoning>short</reasoning>"], [[7] * tokens]) == [expected]


def test_tokens_need_completion_ids():
    with pytest.raises(UserError, match="needs completion_ids"):
        ReasoningLength(unit="tokens")(["p"], ["text"])


def test_only_words_need_the_tag():
    assert ReasoningLength().tags == ["reasoning"]
    assert ReasoningLength(unit="tokens").tags == []


# format_penalty
FORMAT_PENALTY_CASES = [
    ("I am sorry. Have you seen <movie>?", 0, "as asked"),
    ("<movie>", 0, "a placeholder alone"),
    ("<movie><movie>, 3 < 4, I <3 it", 0, "other signs"),
    ("A good movie: you may like it", 0, "the word is not the placeholder"),
    ("The user: a human", 0, "inside a line"),
    ("mail me@home, @you", 0, "no id"),
    ("\u200b", -1, "invisible"),
    ("Try <movie", -1, "never closed"),
    ("Try movie>", -1, "never opened"),
    ("Try < movie >", -1, "with spaces"),
    ("Try <MOVIE>", -1, "in another case"),
    ("Try <movies>", 0, "another word in brackets is not ours to judge"),
    ("Try <movie>. Or <mo", -1, "cut off"),
    ("Try <movie>movie>", -1, "one whole, one broken"),
    ("User: hello", -1, "a speaker's name"),
    ("Hello!\n  recommender : try it", -1, "on a later line"),
    ("**Assistant:** hi", -1, "in bold"),
    ("Hi<|im_end|>", -1, "a token of a template"),
    ("<start_of_turn>Hi", -1, "of Gemma"),
    ("Try @111776", -1, "an id"),
    ("<answer>Try <movie></answer>", 0, "the reply in its tag"),
]


def test_a_placeholder_of_ones_own():
    assert FormatPenalty(placeholder="<film>")(None, ["a <film>", "a <film", "a <movie"]) == [0, -1, 0]


# sentence_end
SENTENCE_END_CASES = [
    ("I am sorry.", 1, "full stop"),
    ("Are you ok?!", 1, "several marks"),
    ("That is hard…", 1, "one character of three dots"),
    ("That is hard...", 1, "three dots"),
    ("我很难过。", 1, "Chinese"),
    ("هل أنت بخير؟", 1, "Arabic"),
    ("मुझे खेद है।", 1, "Hindi"),
    ("I see. 😢", 1, "emoji after the full stop"),
    ("Great!👍🏽❤️🇩🇪", 1, "with skin tone, variation selector and flag"),
    ("She said “I am fine.”", 1, "closing quote"),
    ("„Es wird gut.“", 1, "German closing quote"),
    ("*It will pass.*", 1, "Markdown"),
    ("بخير؟\u200f", 1, "an invisible direction mark behind"),
    ("I am sorry. \n", 1, "white space behind"),
    ("<reasoning>r</reasoning><answer>I see.</answer>", 1, "the reply in its tag"),
    ("I am sorry", 0, "no punctuation"),
    ("I am sorry 😢", 0, "an emoji is no punctuation"),
    ("I am sorry,", 0, "comma"),
    ("I see. And then", 0, "cut off in the second sentence"),
    ("<answer>I see</answer>", 0, "the tag's own characters end nothing"),
    ("...", 0, "no word"),
    ("", 0, "empty"),
]


TABLES = [
    (Length(min=3, max=5, softness=4), LENGTH_CASES),
    (ReasoningLength(min=3, max=5, softness=2), REASONING_LENGTH_CASES),
    (FormatPenalty(), FORMAT_PENALTY_CASES),
    (SentenceEnd(), SENTENCE_END_CASES),
]


@pytest.mark.parametrize(
    ("reward", "completion", "expected", "why"), [(reward, *case) for reward, cases in TABLES for case in cases]
)
def test_tables(reward, completion, expected, why):
    assert reward(["p"], [completion]) == [expected], why

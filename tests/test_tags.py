"""Completions are read the same way everywhere: answers, replies, and replies in three parts."""

import pytest

from empathy_trl.evaluation.metrics.agreement import score_emotions
from empathy_trl.rewards.emotion import EmotionAccuracy
from empathy_trl.rewards.format import Format
from empathy_trl.tags import (
    PARTS,
    completion_text,
    content_text,
    format_credit,
    open_thought,
    part_text,
    read_answer,
    read_json,
    read_number,
    read_parts,
    reply_text,
    tag_bodies,
    tag_marks,
    thought_text,
    user_text,
    without_reflection,
    without_thoughts,
    write_parts,
)
from tests.rewards.three_parts import REPLY, RESPONSE


@pytest.mark.parametrize(
    "completion, expected",
    [
        ("hello", "hello"),
        ([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], "ab"),
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}], "a"),
        ([], ""),
    ],
)
def test_text_of_a_completion(completion, expected):
    assert completion_text(completion) == expected


@pytest.mark.parametrize(
    "text, expected, why",
    [
        ("  I am sorry. ", "I am sorry.", "no tags: the whole completion"),
        ("<reasoning>r</reasoning><answer> a </answer>", "a", "the body of the tag"),
        ("<react>*nods*</react><respond>b</respond><reflect>c</reflect>", "b", "another reply tag"),
        ("<reasoning>r</reasoning> words", "<reasoning>r</reasoning> words", "no reply tag at all"),
        ("<answer>a", "", "never closed"),
        ("a</answer>", "", "never opened"),
        ("<answer>a</answer><answer>b</answer>", "", "two answers"),
        ("<answer>a</answer><respond>b</respond>", "", "two kinds of reply"),
        ("<answer><answer>a</answer></answer>", "", "one inside the other"),
        ("<answer>a <reasoning>b</reasoning></answer>", "a  b", "other tags inside are no words"),
        ("<answer>see <url> or <email></answer>", "see <url> or <email>", "what stands for an address is a word"),
        ("<answer>I loved <movie>!</answer>", "I loved <movie>!", "and so is what stands for a film"),
        ("<answer></answer>", "", "empty"),
        ("", "", "nothing"),
    ],
)
def test_reply(text, expected, why):
    assert reply_text(text) == expected, why
    assert reply_text([{"role": "assistant", "content": text}]) == expected, why


def test_reply_without_tags_asked_for_is_the_whole_completion():
    assert reply_text("<answer>a</answer>", ()) == "<answer>a</answer>"
    assert reply_text("<answer>a</answer><say>b</say>", ["say"]) == "b"


@pytest.mark.parametrize(
    "prompt, expected",
    [
        (" I failed. ", "I failed."),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": " u "}], "u"),
        ([{"role": "user", "content": "1"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "2"}], "2"),
        ([{"role": "system", "content": "s"}], ""),
    ],
)  # fmt: skip
def test_what_the_user_said_last(prompt, expected):
    assert user_text(prompt) == expected


@pytest.mark.faults
@pytest.mark.parametrize(
    ("text", "reply", "why"),
    [
        ("<think>She is sad.</think>\nI am sorry.", "I am sorry.", "a thought before the reply"),
        ("She is sad.</think>\nI am sorry.", "I am sorry.", "the prompt opened the thought"),
        ("<think>\n\n</think>\n\n<answer>sad</answer>", "<answer>sad</answer>", "an empty thought"),
        ("<think>She is", "", "a thought that never ended"),
        ("<think>", "", "nor began"),
        ("I am sorry. ", "I am sorry. ", "no thought: as it is"),
        ("Oh <think>a</think>no, <think>b</think>no.", "Oh no, no.", "several"),
        ("a</think>b<think>c", "b", "one from the prompt, and one that never ended"),
        ("<think>a<think>b</think>c</think>d", "d", "one inside the other"),
        ("</think>", "", "nothing but an end"),
        ("[THINK]She is <think>.[/THINK]I am sorry.", "I am sorry.", "as Magistral writes it"),
        ("She is sad.[/THINK] Oh.", "Oh.", "which its prompt opened"),
        ("I am sorry.<think>She is sad.</think>", "I am sorry.", "a thought behind the reply"),
        ("<THINK>She is sad.</THINK>", "<THINK>She is sad.</THINK>", "no model writes upper case"),
    ],
)
def test_a_thought_is_no_part_of_the_reply(text, reply, why):
    assert without_thoughts(text) == reply, why
    assert completion_text(text) == completion_text([{"role": "assistant", "content": text}]) == reply, why
    assert completion_text(text, thoughts=True) == text
    assert completion_text([{"role": "user", "content": text}]) == text, "what a person wrote has no thoughts"


@pytest.mark.faults
def test_what_is_thought_is_neither_an_answer_nor_a_part():
    thought = "<think>Perhaps <answer>sad</answer>? <respond>No</respond></think>\n"
    answered = thought + "<reasoning>He fumes.</reasoning><answer>angry</answer>"
    assert read_answer(answered, ["sad", "angry"]) == reply_text(answered) == "angry"
    assert format_credit(answered, ["reasoning", "answer"]) == 1
    assert read_parts(thought + REPLY) == read_parts(REPLY)
    assert part_text(thought + REPLY, "respond") == RESPONSE
    assert reply_text("<think>He fumes.", ()) == ""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("text", "thought", "begun"),
    [
        ("<think>She is</think>sad", "She is", ""),
        ("She is</think>sad", "She is", ""),
        ("Oh <think>a</think>, <think>b", "Oh  a , b", "<think>"),
        ("<think>a<think>b</think>c", "a b", ""),
        ("[THINK]a</think>", "a", "[THINK]"),
        ("sad", "", ""),
    ],
)
def test_what_was_thought_and_whether_it_goes_on(text, thought, begun):
    assert thought_text(text).replace("  ", " ") == thought.replace("  ", " ") and open_thought(text) == begun


@pytest.mark.faults
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('```json\n{"a": 4}\n```', {"a": 4}),
        ('<think>Is {"a": 1} fair?</think>\n{"a": 4}', {"a": 4}),
        ('Here it is:\n{"a": 4}\nThank you.', {"a": 4}),
        ('```\n{"a": {"b": 4}}', {"a": {"b": 4}}),
        ("[1, 2]", [1, 2]),
        ('{"a": 4}{"a": 1}', None),
        ('{"a": {"b": 4}, "c', None),
        ('The reply says {"a": 5}, I say {"a": 1}.', None),
        ('{"a": 4, "a": 4}', None),
        ('{"a": NaN}', None),
        ('<think>{"a": 4}', None),
        ("", None),
    ],
)
def test_json_in_the_text_of_a_model(text, value):
    if value is None:
        with pytest.raises(ValueError):
            read_json(text)
    else:
        assert read_json(text) == value


@pytest.mark.faults
def test_a_number_may_be_written_as_a_text_and_nothing_else_is_one():
    assert [read_number(value) for value in (4, 4.5, "4", " -4.5 ", "+4")] == [4, 4.5, 4, -4.5, 4]
    others = ["4/5", "four", "", "1_000", "nan", "1e3", "9" * 400, "٤", True, None, [4], {"a": 4}]
    assert [read_number(value) for value in others] == [None] * len(others)


@pytest.mark.faults
@pytest.mark.parametrize("content", [4, ["a"], {"text": "a"}, [{"text": 4}]])
def test_content_that_is_no_text_is_refused(content):
    with pytest.raises(TypeError, match="content"):
        content_text(content)


def test_bodies_of_a_tag():
    assert tag_bodies("<a> 1 </a><a>2</a>", "a") == ["1", "2"]


def test_marks_of_tags():
    assert tag_marks(("react", "answer")) == ["<react>", "</react>", "<answer>", "</answer>"]


@pytest.mark.parametrize("labels", [("sad", "joyful", "angry"), ("Sad", "JOYFUL", "Angry")])
@pytest.mark.parametrize(
    ("completion", "expected", "why"),
    [
        ("<reasoning>cried</reasoning><answer>sad</answer>", "sad", "as asked"),
        ("<answer>  Sad\n</answer>", "sad", "case and the space around it do not count"),
        ("so it is <answer>angry</answer>, I think", "angry", "nor does the text around the tag"),
        ("sad", None, "no tag"),
        ("", None, "nothing"),
        ("<answer>sad", None, "cut off"),
        ("<answer>sad</answer><answer>sad</answer>", None, "two tags, even if they agree"),
        ("<answer>happy</answer>", None, "not a label"),
        ("<answer>sad.</answer>", None, "exact match"),
        ("<answer>sad, angry</answer>", None, "two labels"),
        ("<answer></answer>", None, "empty"),
    ],
)
def test_a_reward_and_an_evaluation_read_the_same_answer(labels, completion, expected, why):
    spelled = next((label for label in labels if label.lower() == expected), None)
    assert read_answer(completion, labels) == spelled, why
    earned = EmotionAccuracy(labels=list(labels), invalid=-1)(["p"] * 2, [completion] * 2, label=["sad", labels[2]])
    _, predictions, _ = score_emotions([completion] * 2, [labels[0], labels[2]], labels)
    assert predictions == [spelled] * 2, why
    for reward, prediction, gold in zip(earned, predictions, (labels[0], labels[2]), strict=True):
        assert reward == (-1 if prediction is None else prediction == gold), why


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        (REPLY, RESPONSE, "as asked"),
        ("<react>*a* <respond>Hi.</respond> <reflect>", "Hi.", "the other parts are broken"),
        ("<respond>1 < 2 <b>é</b></respond>", "1 < 2 <b>é</b>", "other markup"),
        ("", "", "empty"),
        ("Hi.", "", "no tags"),
        ("<respond>Hi.", "", "unclosed"),
        ("</respond>Hi.<respond>", "", "closed first"),
        ("<respond>Hi.</respond><respond>You.</respond>", "", "twice"),
        ("<respond>Hi.<respond>You.</respond></respond>", "", "inside itself"),
        ("<respond>Hi. <reflect>Well.</reflect></respond>", "", "another part inside"),
        ("<respond>Hi. </react></respond>", "", "a stray mark inside"),
        ("<Respond>Hi.</Respond>", "", "tags are case-sensitive"),
        ([{"role": "assistant", "content": "<respond>Hi.</respond>"}], "Hi.", "messages"),
        ([{"role": "assistant", "content": None}], "", "no content"),
    ],
)
def test_one_part_whatever_the_others_look_like(text, expected, why):
    assert part_text(text, "respond") == expected, why


WHOLE = "<react>*smiles* + *leans in*</react>\n<respond>Hello.</respond>\n<reflect>They are well.</reflect>"
REPLIES = [
    (WHOLE, True),
    (f"  {WHOLE}\n\n", True),
    (WHOLE.replace("\n", ""), True),
    (WHOLE.replace("Hello.", "Hello.\n\nYou < me > them <b>"), True),
    ("", False),
    ("Hello.", False),
    (f"Well. {WHOLE}", False),
    (f"{WHOLE} Bye.", False),
    (WHOLE.replace("</react>\n", "</react> and\n"), False),
    (WHOLE.replace("</react>", ""), False),
    (WHOLE.replace("react>", "React>"), False),
    (WHOLE.replace("Hello.", " \n"), False),
    (WHOLE.replace("Hello.", "<react>Hello.</react>"), False),
    (WHOLE.replace("Hello.", "Hello.</respond><respond>You."), False),
    (WHOLE.replace("Hello.", "Hello <reflect> you"), False),
    ("\n".join(reversed(WHOLE.split("\n"))), False),
]


@pytest.mark.parametrize(("text", "well_formed"), REPLIES)
def test_well_formed_is_what_the_format_reward_pays_for(text, well_formed):
    assert (read_parts(text) is not None) == well_formed
    assert Format(tags=list(PARTS))([""], [text]) == [float(well_formed)]


def test_parts_are_read_and_written():
    parts = read_parts(WHOLE)
    assert parts == {"react": "*smiles* + *leans in*", "respond": "Hello.", "reflect": "They are well."}
    assert write_parts(parts) == WHOLE


def test_a_history_may_go_without_reflections():
    assert without_reflection(WHOLE) == WHOLE.rsplit("\n", 1)[0]
    assert without_reflection("<react>Hello.") == "<react>Hello."

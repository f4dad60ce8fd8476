"""A reply in chunks: which part is what, and the same however it is cut."""

import itertools
import random

import pytest

from empathy_trl.chat.reply import REASONED as REASONED_TAGS
from empathy_trl.chat.reply import TAGS, Chunk, ReplyReader, is_well_formed
from empathy_trl.rewards.format import Format, StageFormat
from empathy_trl.tags import PARTS, read_parts

STAGED = (
    "<react>*nods* + *leans in*</react>\n<respond>I hear you, a < b.</respond>\n<reflect>They may be lonely.</reflect>"
)
REASONED = "<reasoning>lost it</reasoning><answer>sad</answer>"


def read(chunks):
    """Parts of a reply given in chunks, neighbours of one part joined, as (part, text, complete)."""
    reader, parts = ReplyReader(), []
    for chunk in [*(new for text in chunks for new in reader.feed(text)), *reader.close()]:
        if parts and parts[-1][0] == chunk.part and not parts[-1][2]:
            parts[-1] = (chunk.part, parts[-1][1] + chunk.text, chunk.complete)
        else:
            parts.append((chunk.part, chunk.text, chunk.complete))
    return parts, reader.well_formed


@pytest.mark.parametrize(
    ("text", "parts", "well_formed"),
    [
        (
            STAGED,
            [
                ("react", "*nods* + *leans in*", True),
                ("text", "\n", False),
                ("respond", "I hear you, a < b.", True),
                ("text", "\n", False),
                ("reflect", "They may be lonely.", True),
            ],
            True,
        ),
        (REASONED, [("reasoning", "lost it", True), ("answer", "sad", True)], True),
        ("Just words, 1 < 2 <3", [("text", "Just words, 1 < 2 <3", False)], True),
        ("", [], True),
        ("<react>*nods*", [("react", "*nods*", False)], False),
        ("<react>*nods*</react", [("react", "*nods*</react", False)], False),
        ("<b>bold</b><movie>", [("text", "<b>bold</b><movie>", False)], True),
        ("</react>", [("text", "</react>", False)], False),
        ("<<react>x</react>", [("text", "<", False), ("react", "x", True)], False),
        ("<React>x</React>", [("text", "<React>x</React>", False)], True),
        (
            "<respond>one <react>two</react> three</respond>",
            [("respond", "one <react>two</react> three", True)],
            False,
        ),
        ("<answer>sad</answer>", [("answer", "sad", True)], False),
        (REASONED + STAGED, None, False),
        ("<react></react>", [("react", "", True)], False),
        (
            "<think>Sad.</think>\n" + REASONED,
            [("think", "Sad.", True), ("text", "\n", False), ("reasoning", "lost it", True), ("answer", "sad", True)],
            True,
        ),
        ("<think>Sad", [("think", "Sad", False)], True),
        ("Sad.</think>No!", [("text", "Sad.", True), ("text", "No!", False)], True),
    ],
)
def test_parts_of_a_reply(text, parts, well_formed):
    found, verdict = read([text])
    assert parts is None or found == parts
    assert verdict is well_formed


@pytest.mark.parametrize(
    ("text", "expects", "well_formed"),
    [
        (STAGED, PARTS, True),
        (STAGED, REASONED_TAGS, False),
        (REASONED, REASONED_TAGS, True),
        ("Plain.", PARTS, False),
        ("<think>Sad", PARTS, False),
        ("Sad.</think>" + STAGED, PARTS, True),
    ],
)
def test_a_format_may_be_expected(text, expects, well_formed):
    assert is_well_formed(text, expects) is well_formed


@pytest.mark.parametrize(
    ("text", "expects", "reward"),
    [
        (STAGED.replace("</respond>", " <answer></respond>"), PARTS, StageFormat()),
        (REASONED.replace("</answer>", " <react></answer>"), REASONED_TAGS, Format(tags=list(REASONED_TAGS))),
    ],
)
def test_a_tag_of_another_format_is_a_word_as_for_the_rewards(text, expects, reward):
    assert reward(None, [text]) == [1.0]
    assert is_well_formed(text, expects)
    assert not is_well_formed(text)  # which of the two it was meant to be is not known


def texts():
    """Texts made of tags, halves of tags and words, in any order; the same ones in every run."""
    draw = random.Random(0)
    marks = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
    bits = [*marks, *(mark[:-1] for mark in marks), "<", "</", ">", " ", "\n", "word", "é🙂", "<respond", "<<"]
    yield from (STAGED, REASONED, "plain")
    for _ in range(300):
        yield "".join(draw.choices(bits, k=draw.randint(1, 12)))


def test_any_cut_gives_the_same_parts():
    draw = random.Random(1)
    for text in texts():
        whole = read([text])
        assert read(text) == whole, text  # character by character
        for _ in range(3):
            places = sorted(draw.choices(range(len(text) + 1), k=draw.randint(1, 6)))
            chunks = [text[start:end] for start, end in itertools.pairwise([0, *places, len(text)])]
            assert read(chunks) == whole, chunks


def test_the_reader_agrees_with_who_reads_whole_replies():
    for text in texts():
        if (parts := read_parts(text)) is not None and is_well_formed(text):
            assert {part: body.strip() for part, body, _ in read([text])[0] if part != "text"} == parts
        assert is_well_formed(text) is read([text])[1]


def test_only_what_may_become_a_tag_is_held_back():
    reader = ReplyReader()
    assert reader.feed("Hello <") == [Chunk("text", "Hello ")]
    assert reader.feed("re") == []
    assert reader.feed("d> ") == [Chunk("text", "<red> ")]
    assert reader.feed("<react>*no") == [Chunk("react", "*no")]
    assert reader.feed("ds*</react") == [Chunk("react", "ds*")]
    assert reader.feed(">") == [Chunk("react", "", complete=True)]
    assert reader.feed("<respond>Hi") == [Chunk("respond", "Hi")]

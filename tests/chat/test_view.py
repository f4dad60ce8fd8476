import pytest

from empathy_trl.chat.reply import Chunk
from empathy_trl.chat.session import SessionEvent, Stats
from empathy_trl.chat.web.view import BREAKS, Turn, latency, problem_html, turn_html


def shown(*chunks, **changes) -> str:
    turn = Turn("hello")
    for chunk in chunks:
        turn.add(chunk)
    for name, value in changes.items():
        setattr(turn, name, value)
    return turn_html(turn)


def test_reaction_is_shown_once_it_is_complete():
    assert "soft" not in shown(Chunk("react", "*soft eyes"))
    page = shown(Chunk("react", "*soft eyes"), Chunk("react", "* + *nods*", complete=True))
    assert '<p class="reaction" dir="auto">soft eyes + nods</p>' in page
    assert '<p class="reaction" dir="auto">soft eyes</p>' in shown(Chunk("react", "*soft eyes"), done=True)


def test_reflection_is_shown_at_the_end_and_closed():
    thought = Chunk("reflect", "They are sad.", complete=True)
    assert "They are sad." not in shown(thought)
    assert '<details class="reflection"><summary>' in shown(thought, done=True)
    assert "They are sad." in shown(thought, done=True)


def test_reasoning_is_open_until_it_is_complete():
    assert '<details class="reasoning" open>' in shown(Chunk("reasoning", "lost"))
    assert '<details class="reasoning">' in shown(Chunk("reasoning", "lost", complete=True))


def test_white_space_between_parts_is_no_text():
    page = shown(Chunk("react", "*nods*", complete=True), Chunk("text", "\n"), Chunk("respond", "Yes."))
    assert page.count('class="spoken') == 1


def test_notices_stand_where_they_came():
    page = shown(SessionEvent("cut"), Chunk("text", "words"), SessionEvent("stopped"))
    assert page.index("cut") < page.index("words") < page.index("stopped")


def test_broken_reply_is_shown_as_it_is():
    page = shown(Chunk("respond", "x"), broken="<respond>x", done=True)
    assert "&lt;respond&gt;x</div>" in page and BREAKS in page
    assert page.count('class="spoken') == 1


@pytest.mark.parametrize("part", ["react", "respond", "reflect", "reasoning", "answer", "text"])
@pytest.mark.parametrize(
    ("written", "harmless"),
    [
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("\" onclick='x'", "&quot; onclick=&#x27;x&#x27;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("\x1b[2J\x00", r"\x1b[2J\x00"),
        ("\ud800", "\ufffd"),
    ],
)
def test_what_models_write_is_text(part, written, harmless):
    page = shown(Chunk(part, written, complete=True), done=True)
    assert harmless in page and written not in page
    page.encode()


def test_other_texts_are_text_as_well():
    page = shown(SessionEvent("<i>"), user="<b>", error="<u>", stats="<s>", broken="<em>")
    assert not any(tag in page for tag in ("<i>", "<b>", "<u>", "<s>", "<em>"))
    assert problem_html("<u>") == '<p class="error" dir="auto" role="alert">&lt;u&gt;</p>'
    assert problem_html("") == ""


@pytest.mark.parametrize(
    ("stats", "words"),
    [
        (Stats(reaction=0.5, first_word=1.0, whole=2.0, tokens=50), "reaction after 0.50 s · first word after 1.00 s · 25.0 tokens/s"),
        (Stats(first_word=1.0, whole=2.0, tokens=50), "first word after 1.00 s · 25.0 tokens/s"),
        (Stats(), ""),
    ],
)  # fmt: skip
def test_latency(stats, words):
    assert latency(stats) == words

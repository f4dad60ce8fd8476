"""The page: its state, without a browser, and what a person sees in one."""

import itertools
import os
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

gr = pytest.importorskip("gradio", reason='the page needs gradio: pip install "empathy-trl[web]"')

from empathy_trl.chat.local import LocalModel
from empathy_trl.chat.prompts import Prompts
from empathy_trl.chat.reply import Sampling
from empathy_trl.chat.session import Session, Settings, Stats
from empathy_trl.chat.web import BREAKS_FORMAT, PageState, build_page, latency, launch, serve
from empathy_trl.errors import UserError
from tests.browser import chromium
from tests.chat.scripted_model import Wait, scripted_session
from tests.chat.small_models import small

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> [a link](http://example.org) **bold** "
    "&lt; {{value}} </div></details> \x1b[31mred\x1b[0m \u202eturned"
)
HARMLESS = HOSTILE.replace("\x1b", r"\x1b").replace("\u202e", "")


def said(state, message="Hi"):
    """Send a message and return what the page shows at the end: (role, content or title), and the figures."""
    *_, (messages, _, figures) = state.send(message)
    return shown(messages), figures


def shown(messages):
    return [(each["role"], each["metadata"].get("title") or each["content"]) for each in messages]


def test_a_reply_is_a_message_for_each_part():
    state = PageState(
        scripted_session({"Hi": ["<react>*nods*</re", "act>\n<respond>Yes, I ", "am.</respond><reflect>Hm."]})
    )
    seen = [shown(messages)[1:] for messages, _, _ in state.send("Hi")]
    assert [seen[0], *(new for old, new in itertools.pairwise(seen) if new != old)][:4] == [
        [],
        [("assistant", "*nods*")],
        [("assistant", "*nods*"), ("assistant", "Yes, I ")],
        [("assistant", "*nods*"), ("assistant", "Yes, I am.")],
    ]
    state = PageState(scripted_session())
    messages, figures = said(state)
    assert [text for _, text in messages] == ["Hi", "*nods*", "I know of: Hi", "Reflection"]
    assert figures.startswith("reaction after 0.") and figures.endswith("tokens/s")


@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        (["Just words.\n"], ["Just words.\n"]),
        (["<think>Who", "?</think>\nHello."], ["Thought", "Hello."]),
        (["<think> </think>Hello."], ["Hello."]),
        (["<think>Who"], ["Thought", "the reply is empty; rephrase the message"]),
        (["<think>Who?</think><respond>x</respond>"], ["Thought", "&lt;respond>x&lt;/respond>", BREAKS_FORMAT]),
        (["<respond>x</respond>"], ["&lt;respond>x&lt;/respond>", BREAKS_FORMAT]),
        ([], ["the reply is empty; rephrase the message"]),
        (["Half", UserError("no <connection>")], ["Half", "Error: no &lt;connection>"]),
        (["Half", RuntimeError("at /some/path")], ["Half", "Error: the reply failed; the server's log says why."]),
    ],
)
def test_other_replies(reply, texts):
    state = PageState(scripted_session({"Hi": reply}))
    assert [text for _, text in said(state)[0][1:]] == texts
    assert state.undo()[:2] == ([], "Hi") and state.session.history == []


def test_messages_that_are_not_taken():
    state = PageState(scripted_session())
    assert list(state.send(" \n")) == []
    with pytest.warns(UserWarning, match="the message is too long"):
        assert list(state.send("word " * 1000)) == []
    assert state.turns == [] and said(state)[0]


def test_undo_and_retry():
    state = PageState(scripted_session())
    for message in ("apples", "pears"):
        said(state, message)
    messages, box, _ = state.undo()
    assert box == "pears" and len(messages) == len(state.session.history) + 2 == 4
    *_, (messages, _, _) = state.retry()
    assert [text for _, text in shown(messages)[:3]] == ["apples", "*nods*", "I know of: apples"]
    assert len(state.session.history) == 2 and len(state.session.all_stats) == 1
    state.undo()
    assert state.undo() == ([], "", "") and list(state.retry()) == []


def test_one_reply_at_a_time():
    state = PageState(scripted_session({"long": ["words", Wait()]}))
    reply = state.send("long")
    next(reply), next(reply)
    for other in (lambda: list(state.send("again")), state.undo, lambda: list(state.retry())):
        with pytest.warns(UserWarning, match="still being written; stop it first"):
            other()
    assert len(state.turns) == 1
    threading.Timer(0.1, state.stop).start()
    *_, (messages, _, _) = reply
    assert shown(messages)[1:] == [("assistant", "words"), ("assistant", "stopped")]


def test_a_page_that_closes_in_the_middle_ends_its_reply():
    state = PageState(scripted_session({"long": ["words", Wait()]}))
    reply = state.send("long")
    next(reply), next(reply)
    reply.close()
    assert said(state, "again")[0][-2:] == [("assistant", "I know of: long, again"), ("assistant", "Reflection")]


def test_a_model_in_this_process():
    session = Session(LocalModel(*small(), Sampling(seed=1)), Prompts(), Settings(max_new_tokens=8))
    state = PageState(session)
    messages, figures = said(state, "I was so scared.")
    assert messages[1][1] and "tokens/s" in figures
    state.session.prepare()
    assert said(state, "And lost.")[0][: len(messages)] == messages


@pytest.mark.parametrize(
    ("stats", "words"),
    [
        (Stats(0.5, 1.0, 2.0, 50), "reaction after 0.50 s · first word after 1.00 s · 25.0 tokens/s"),
        (Stats(first_word=1.0, whole=2.0, tokens=50), "first word after 1.00 s · 25.0 tokens/s"),
        (Stats(), ""),
    ],
)
def test_latency(stats, words):
    assert latency(stats) == words


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_page_is_for_this_machine_unless_the_user_says_so(monkeypatch, capsys, host, warns):
    def interrupt(event):
        raise KeyboardInterrupt

    monkeypatch.setattr(gr.Blocks, "launch", lambda page, **settings: (None, settings["server_name"], None))
    monkeypatch.setattr(threading.Event, "wait", interrupt)
    serve(scripted_session, "a model", *([host] if warns else []))
    printed = capsys.readouterr()
    assert f"a model: {host} (Ctrl-C ends it)" in printed.out
    assert ("anyone who can reach this port can use the model" in printed.err) is warns


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http_proxy", "http://127.0.0.1:9"),
        ("all_proxy", "socks://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/nowhere.pem"),
    ],
)
def test_a_proxy_is_not_asked_for_the_page(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    page = build_page(scripted_session, "a model")
    try:
        assert launch(page, "127.0.0.1", 0).startswith("http://127.0.0.1:") and os.environ[name] == value
    finally:
        page.close(verbose=False)


@pytest.mark.parametrize("address", [("127.0.0.1", 70_000), ("127.0.0.1", None), ("nowhere.invalid", 7860)])
def test_an_address_that_cannot_be_listened_on(address):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = address
        with pytest.raises(UserError, match=f"cannot listen on {host}, port"):
            launch(build_page(scripted_session, "a model"), host, port or taken.getsockname()[1])


@pytest.fixture(scope="module")
def site():
    """The server: `url`, the `scripts` of all its sessions, and the `sessions`."""
    scripts, sessions = {}, []

    def new_session():
        sessions.append(scripted_session(scripts))
        return sessions[-1]

    page = build_page(new_session, "A model <1>")
    page.url, page.scripts, page.sessions = launch(page, "127.0.0.1", 0), scripts, sessions
    yield page
    page.close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser, site):
    """Return a function that opens the page as a new visitor; all are gone after the test."""
    contexts = []

    def open_page():
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.requested, page.wrong = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto(site.url)
        expect(box(page)).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()


def expect(locator):
    expecting = pytest.importorskip("playwright.sync_api").expect
    expecting.set_options(timeout=20_000)
    return expecting(locator)


def box(page):
    return page.get_by_placeholder("Your message")


def bot(page):
    """The parts of all replies that are on the screen."""
    return page.get_by_test_id("bot")


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def say(page, message):
    """Type a message and send it with Enter."""
    box(page).fill(message)
    box(page).press("Enter")


def talk(page, message):
    """Say something once the last reply has ended, and wait for the end of this one."""
    expect(page.locator(".submit-button")).to_be_visible()
    say(page, message)
    expect(page.get_by_test_id("user").last).to_have_text(message)
    expect(page.get_by_text("tokens/s")).to_be_visible()


def test_a_conversation_in_a_browser(site, visit):
    begun, reflected = Wait(), Wait()
    site.scripts["a long day"] = [
        "<react>*soft eyes*</react>\n<respond>That sounds", begun, " hard.</respond>",
        "<reflect>They want", reflected, " rest.</reflect>",
    ]  # fmt: skip
    page = visit()
    assert page.title() == "A model <1>"
    say(page, "a long day")
    expect(bot(page)).to_have_text(["*soft eyes*", "That sounds"])
    expect(box(page)).to_have_value("")
    begun.set()
    expect(bot(page).nth(1)).to_have_text("That sounds hard.")
    reflected.set()
    expect(page.get_by_text("reaction after")).to_be_visible()
    thought = page.get_by_text("They want rest.")
    expect(thought).to_be_hidden()
    page.get_by_text("Reflection", exact=True).click()
    expect(thought).to_be_visible()
    talk(page, "apples")
    expect(page.get_by_text("I know of: a long day, apples")).to_be_visible()
    button(page, "Undo").click()
    expect(page.get_by_test_id("user")).to_have_text(["a long day"])
    expect(box(page)).to_have_value("apples")
    talk(page, "pears")
    site.scripts["pears"] = ["Another reply."]
    button(page, "Retry").click()
    expect(bot(page).last).to_have_text("Another reply.")
    expect(page.get_by_text("tokens/s")).to_be_visible()
    expect(page.locator(".submit-button")).to_be_visible()
    button(page, "Clear").click()
    expect(page.get_by_test_id("user")).to_have_count(0)
    talk(page, "plums")
    expect(page.get_by_text("I know of: plums")).to_be_visible()
    assert {urlsplit(url).netloc for url in page.requested if not url.startswith("data:")} == {
        urlsplit(site.url).netloc
    }
    assert page.wrong == []


def test_stop_keeps_what_there_is_and_clear_ends_a_reply(site, visit):
    site.scripts["endless"] = ["And so on", Wait()]
    page = visit()
    say(page, "endless")
    expect(bot(page)).to_have_text("And so on")
    say(page, "wait")  # is not sent meanwhile
    expect(box(page)).to_have_value("wait")
    page.locator(".stop-button").click()
    expect(page.get_by_text("stopped")).to_be_visible()
    expect(bot(page).first).to_have_text("And so on")
    talk(page, "plums")
    expect(page.get_by_text("I know of: endless, plums")).to_be_visible()
    say(page, "endless")
    expect(bot(page).last).to_have_text("And so on")
    button(page, "Clear").click()
    expect(page.get_by_test_id("user")).to_have_count(0)
    expect(page.locator(".submit-button")).to_be_visible()
    talk(page, "quinces")
    expect(page.get_by_text("I know of: quinces")).to_be_visible()


def test_two_visitors_at_once_and_one_who_leaves(site, visit):
    waiting = Wait()
    site.scripts["my secret"] = ["Your secret", waiting, " is safe."]
    one, other = visit(), visit()
    say(one, "my secret")
    expect(bot(one)).to_have_text("Your secret")
    talk(other, "hello")  # while the first one's reply is not complete
    expect(other.get_by_text("I know of: hello")).to_be_visible()
    assert "secret" not in other.content()
    (session,) = [each for each in site.sessions if each.history and each.history[0]["content"] == "hello"]
    other.close()
    waiting.set()
    expect(bot(one)).to_have_text("Your secret is safe.")
    ends = time.monotonic() + 20
    while not session._conversation.left:
        assert time.monotonic() < ends, "its session goes on"
        time.sleep(0.1)


def test_reasoning_folds_up_when_the_answer_begins(site, visit):
    reasoned = Wait()
    site.scripts["feel"] = ["<reasoning>lost, cried", reasoned, "</reasoning><answer>sad</answer>"]
    page = visit()
    say(page, "feel")
    expect(page.get_by_text("lost, cried")).to_be_visible()
    reasoned.set()
    expect(page.get_by_text("sad", exact=True)).to_be_visible()
    expect(page.get_by_text("lost, cried")).to_be_hidden()


def test_hostile_text_is_text(site, visit):
    site.scripts[f"mine {HARMLESS}"] = [f"<react>{HOSTILE}</react><respond>{HOSTILE}", UserError(HOSTILE)]
    page = visit()
    say(page, f"mine {HARMLESS}")
    expect(page.get_by_text("Error: ")).to_be_visible()
    expect(page.get_by_test_id("user")).to_have_text(f"mine {HARMLESS}")
    expect(bot(page).first).to_have_text(HARMLESS)
    expect(bot(page).nth(1)).to_have_text(HARMLESS)
    expect(page.get_by_text(f"Error: {HARMLESS}")).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert not any("example.org" in url or url.endswith("/x") for url in page.requested)

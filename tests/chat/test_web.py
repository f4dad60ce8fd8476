"""The page in a real browser, with a session without a model."""

import re
import threading
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio", reason='the page needs gradio: pip install "empathy-trl[web]"')
playwright = pytest.importorskip("playwright.sync_api", reason="the browser needs playwright: pip install -e .[dev]")
expect = playwright.expect

from empathy_trl.chat.session import SessionEvent
from empathy_trl.chat.web.page import FORGOTTEN, LONGEST_MESSAGE
from empathy_trl.chat.web.server import build_app, listen, make_server
from empathy_trl.chat.web.view import BREAKS
from empathy_trl.chat.web.visitors import Visitors
from empathy_trl.errors import UserError
from tests.browser import chromium
from tests.chat.scripted_session import ScriptedSession, Wait

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> [a link](http://example.org) **bold** "
    "${window.hacked = 3} {{value}} </div></details> \x1b[31mred\x1b[0m \u202eturned"
)


@pytest.fixture(scope="module")
def site():
    """The server: `url`, its `visitors`, and the `scripts` of all their sessions."""
    scripts: dict[str, list] = {}
    visitors = Visitors(lambda: ScriptedSession(scripts))
    server, listening = make_server(build_app(visitors, "A model <1>"), visitors), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    visitors.url, visitors.scripts = f"http://127.0.0.1:{listening.getsockname()[1]}", scripts
    yield visitors
    server.should_exit = True
    thread.join(timeout=20)
    visitors.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser, site):
    """Return a function that opens the page as a new visitor; all are gone after the test."""
    contexts = []

    def open_page(**settings):
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.requested, page.wrong = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
        page.goto(site.url)
        expect(box(page)).to_be_visible(timeout=30_000)
        return page

    yield open_page
    for context in contexts:
        context.close()


def box(page):
    return page.get_by_label("Message")


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def say(page, message):
    """Type a message and send it with Enter."""
    box(page).fill(message)
    box(page).press("Enter")


def talk(page, message):
    """Say something and wait for the end of the reply."""
    say(page, message)
    expect(page.locator("#live .user")).to_have_text(message)
    expect(page.locator("#live .stats")).to_be_visible()


def test_page_is_all_there_is_to_fetch(site, visit):
    page = visit()
    talk(page, "hello")
    assert {urlsplit(url).netloc for url in page.requested if not url.startswith("data:")} == {
        urlsplit(site.url).netloc
    }
    assert page.wrong == []
    assert page.title() == "A model <1>"
    expect(page.get_by_role("heading")).to_have_text("A model <1>")


def test_reply_comes_in_stages(site, visit):
    reacted, begun, reflected = Wait(), Wait(), Wait()
    site.scripts["a long day"] = [
        "<react>*soft eyes* +", " *leans in*</react>\n<respond>", reacted, "That sounds", begun,
        " hard.</respond>", reflected, "<reflect>They want rest.</reflect>",
    ]  # fmt: skip
    page = visit()
    say(page, "a long day")
    live = page.locator("#live")
    expect(live.locator(".reaction")).to_have_text("soft eyes + leans in")
    expect(live.locator(".spoken")).to_have_count(0)
    expect(live.locator(".waiting")).to_have_text("…")
    expect(box(page)).to_have_value("")
    reacted.set()
    expect(live.locator(".spoken")).to_have_text("That sounds")
    begun.set()
    expect(live.locator(".spoken")).to_have_text("That sounds hard.")
    expect(live.locator(".waiting")).to_have_text("reflecting …")
    expect(live.locator(".stats")).to_have_count(0)
    reflected.set()
    expect(live.locator(".stats")).to_have_text("reaction after 0.21 s · first word after 0.35 s · 41.7 tokens/s")
    expect(live.locator(".waiting")).to_have_count(0)
    expect(live.locator(".mark")).to_have_count(0)


def test_reflection_is_in_a_closed_drawer(visit):
    page = visit()
    talk(page, "hello")
    thought = page.locator("#live .reflection .thought")
    expect(thought).to_be_hidden()
    page.get_by_text("Reflection", exact=True).click()
    expect(thought).to_have_text("What comes next?")
    expect(thought).to_be_visible()


def test_earlier_turns_stay(visit):
    page = visit()
    talk(page, "apples")
    talk(page, "pears")
    expect(page.locator("#past .user")).to_have_text(["apples"])
    expect(page.locator("#past .spoken")).to_have_text(["I know of: apples"])
    expect(page.locator("#live .spoken")).to_have_text("I know of: apples, pears")


def test_reset_forgets(visit):
    page = visit()
    talk(page, "apples")
    talk(page, "pears")
    button(page, "Reset").click()
    expect(page.locator(".turn")).to_have_count(0)
    talk(page, "plums")
    expect(page.locator("#live .spoken")).to_have_text("I know of: plums")
    expect(page.locator(".notice")).to_have_count(0)


def test_reset_while_a_reply_is_written(site, visit):
    site.scripts["endless"] = ["<react>*sighs* + *sits*</react><respond>And so on", Wait()]
    page = visit()
    say(page, "endless")
    expect(page.locator("#live .spoken")).to_have_text("And so on")
    button(page, "Reset").click()
    expect(page.locator(".turn")).to_have_count(0)
    talk(page, "plums")
    expect(page.locator("#live .spoken")).to_have_text("I know of: plums")


def test_stop_keeps_what_there_is(site, visit):
    site.scripts["endless"] = ["<react>*sighs* + *sits*</react><respond>And so on", Wait(), " for ever</respond>"]
    page = visit()
    say(page, "endless")
    expect(page.locator("#live .spoken")).to_have_text("And so on")
    say(page, "wait")  # is not sent meanwhile
    expect(box(page)).to_have_value("wait")
    button(page, "Stop").click()
    expect(page.locator("#live .notice")).to_have_text("stopped")
    expect(page.locator("#live .spoken")).to_have_text("And so on")
    expect(button(page, "Stop")).to_be_hidden()
    talk(page, "plums")
    expect(page.locator("#live .spoken")).to_have_text("I know of: endless, plums")


def test_two_visitors_at_once(site, visit):
    waiting = Wait()
    site.scripts["my secret"] = ["<react>*nods* + *sits*</react><respond>Your secret", waiting, " is safe.</respond>"]
    one, other = visit(), visit()
    say(one, "my secret")
    expect(one.locator("#live .spoken")).to_have_text("Your secret")
    talk(other, "hello")  # while the first one's reply is not complete
    expect(other.locator("#live .spoken")).to_have_text("I know of: hello")
    expect(one.locator(".user")).to_have_text(["my secret"])
    waiting.set()
    expect(one.locator("#live .stats")).to_be_visible()
    button(other, "Reset").click()
    expect(other.locator(".turn")).to_have_count(0)
    talk(one, "more")
    expect(one.locator("#live .spoken")).to_have_text("I know of: my secret, more")
    assert "secret" not in other.content()


def test_a_page_that_is_left_is_forgotten(site, visit):
    page = visit()
    talk(page, "hello")
    key = session_key(page)
    assert site.find(key)
    page.close()
    for _ in range(100):
        if not site.find(key):
            return
        threading.Event().wait(0.1)
    pytest.fail("its conversation is still there after 10 seconds")


def test_what_was_dropped_is_said(site, visit):
    page = visit()
    talk(page, "apples")
    site.drop(session_key(page))
    talk(page, "pears")
    expect(page.locator("#live .notice")).to_have_text(FORGOTTEN)
    expect(page.locator("#live .spoken")).to_have_text("I know of: pears")
    expect(page.locator("#past .turn")).to_have_count(0)


def test_browser_takes_no_more_than_the_longest_message(visit):
    page = visit()
    expect(box(page)).to_have_attribute("maxlength", str(LONGEST_MESSAGE))
    box(page).fill("x" * (LONGEST_MESSAGE - 1))
    expect(page.locator("#problem")).to_have_text("")
    page.keyboard.type("yz")
    expect(box(page)).to_have_value("x" * (LONGEST_MESSAGE - 1) + "y")
    expect(page.locator("#problem")).to_have_text(f"The message is full: {LONGEST_MESSAGE} characters.")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("x" * (LONGEST_MESSAGE + 1), f"has {LONGEST_MESSAGE + 1} characters; expected at most {LONGEST_MESSAGE}"),
        ("  ", "there is no message"),
    ],
    ids=["too long", "empty"],
)
def test_message_that_is_not_taken(visit, message, problem):
    page = visit()
    talk(page, "hello")
    box(page).evaluate("box => box.removeAttribute('maxlength')")  # as a client might
    say(page, message)
    expect(page.get_by_role("alert")).to_contain_text(problem)
    expect(box(page)).to_have_value(message)
    expect(page.locator(".turn")).to_have_count(1)
    talk(page, "again")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_hostile_text_is_text(site, visit):
    reply = f"<react>{HOSTILE}</react><respond>{HOSTILE}</respond><reflect>{HOSTILE}</reflect>"
    message = f"<b>mine</b> {HOSTILE}"
    site.scripts[message] = [SessionEvent(HOSTILE), reply]
    page = visit()
    say(page, message)
    expect(page.locator("#live .stats")).to_be_visible()
    for part in (".user", ".reaction", ".spoken", ".reflection .thought", ".notice"):
        text = page.locator(f"#live {part}").text_content()
        assert "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>" in text
        assert "[a link](http://example.org)" in text and "${window.hacked = 3} {{value}} </div></details>" in text
        assert r"\x1b[31mred\x1b[0m turned" in text
    talk(page, "next")  # which puts it into the past
    assert page.locator("#past :is(script, img, a, strong, b)").count() == 0
    assert page.evaluate("window.hacked") is None
    assert not any("example.org" in url or url.endswith("/x") for url in page.requested)


def test_reply_that_breaks_the_format(site, visit):
    site.scripts["odd"] = ["<respond>Well.</respond>", "<react>*nods*</react>"]
    page = visit()
    talk(page, "odd")
    expect(page.locator("#live .mark")).to_have_text(BREAKS)
    expect(page.locator("#live .spoken")).to_have_text("<respond>Well.</respond><react>*nods*</react>")


def test_reasoning_and_answer(site, visit):
    reasoned = Wait()
    site.scripts["feel"] = ["<reasoning>lost, cried", reasoned, "</reasoning><answer>sad</answer>"]
    page = visit()
    say(page, "feel")
    expect(page.locator("#live .reasoning .thought")).to_be_visible()
    reasoned.set()
    expect(page.locator("#live .spoken")).to_have_text("sad")
    expect(page.locator("#live .reasoning .thought")).to_be_hidden()
    expect(page.locator("#live .mark")).to_have_count(0)


def test_plain_reply_and_notice(site, visit):
    site.scripts["plain"] = [SessionEvent("2 turns were forgotten"), "Just words,\n**as they are**."]
    page = visit()
    talk(page, "plain")
    expect(page.locator("#live .spoken")).to_have_text("Just words,\n**as they are**.")
    expect(page.locator("#live .notice")).to_have_text("2 turns were forgotten")


@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        (UserError("the context of 64 tokens is full"), "the context of 64 tokens is full"),
        (RuntimeError("at /some/path"), "The reply failed; the server's log says why."),
    ],
    ids=["UserError", "other"],
)
def test_errors_have_no_trace(site, visit, failure, shown):
    site.scripts["bad"] = ["<react>*nods", failure]
    page = visit()
    say(page, "bad")
    expect(page.get_by_role("alert")).to_have_text(shown)
    assert "Traceback" not in page.content() and "/some/path" not in page.content()
    talk(page, "hello")


def test_server_ends_while_a_reply_is_written(browser, capfd):
    visitors = Visitors(lambda: ScriptedSession({"endless": ["And so on", Wait()]}))
    server, listening = make_server(build_app(visitors, "a model"), visitors), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}")
    say(page, "endless")
    expect(page.locator("#live .spoken")).to_have_text("And so on")
    server.should_exit = True
    thread.join(timeout=20)
    page.close()
    assert not thread.is_alive()
    printed = capfd.readouterr().err
    assert "Traceback" not in printed and "ERROR" not in printed


def session_key(page) -> str:
    return next(found[1] for url in page.requested if (found := re.search(r"heartbeat/(\w+)", url)))

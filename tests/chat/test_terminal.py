"""The read-print loop: what is on the screen, and when."""

import signal

import pytest

from empathy_trl.chat.prompts import Prompts
from empathy_trl.chat.session import Session, Settings
from empathy_trl.chat.terminal import DIM, HELP, REACTION, RESET, Terminal, stopping
from empathy_trl.errors import UserError
from tests.chat.scripted_model import STAGED, ScriptedModel


@pytest.fixture
def chat(monkeypatch, capsys):
    """Return a function that types lines and returns the exit status, the screen and the terminal."""

    def run(lines, *replies, styled=False, context=1000, **settings):
        typed = iter(lines)

        def read(prompt):
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        model = ScriptedModel(*(replies or [STAGED]))
        terminal = Terminal(Session(model, Prompts(), Settings(context, 20)), **settings)
        terminal.styled = styled
        status = terminal.run()
        return status, capsys.readouterr().out, terminal

    return run


def test_a_reply_in_three_parts(chat):
    status, screen, terminal = chat(["Hi"])
    assert status == 0 and screen == "*nods* + *sits*\nI am here.\n"
    assert "They wait." in terminal.session.history[-1]["content"]


def test_the_reaction_has_another_style(chat):
    assert chat(["Hi"], styled=True)[1] == f"{REACTION}*nods* + *sits*{RESET}\nI am here.\n"


def test_the_reaction_is_on_the_screen_as_soon_as_it_is_complete(chat, capsys):
    seen = []

    def watched(messages, stop):
        for text in STAGED:
            yield text
            seen.append(capsys.readouterr().out)

    chat(["Hi"], watched)
    assert seen == ["", "", "*nods* + *sits*\nI am", " here.\n", ""]


@pytest.mark.parametrize(
    ("lines", "settings", "screen"),
    [
        (["Hi"], {"show_reflection": True}, "*nods* + *sits*\nI am here.\nreflection: They wait.\n"),
        (["Hi", "/reflect"], {}, "*nods* + *sits*\nI am here.\n[They wait.]\n"),
        (["/reflect"], {}, "[the last reply has no reflection]\n"),
        (["Hi", "/thought"], {}, "*nods* + *sits*\nI am here.\n[the last reply has no thought]\n"),
        ([""], {}, "[type a message; /help lists the commands]\n"),
        (["   "], {}, "[type a message; /help lists the commands]\n"),
        (["/help"], {}, HELP + "\n"),
        (["/stats"], {}, "no reply yet\n"),
        (
            ["/sav x"],
            {},
            "[/sav: no such command (choices: /undo, /retry, /reset, /save, /stats, /reflect, /thought, /help, /quit)]\n",
        ),
        (["/save"], {}, "[/save: expected a file, such as /save talk.jsonl]\n"),
        (["/save talk.jsonl"], {}, "[the conversation is empty]\n"),
        (["/undo"], {}, "[the conversation is empty]\n"),
        (["Hi", "/undo", "/retry"], {}, "*nods* + *sits*\nI am here.\n[taken back: Hi]\n[the conversation is empty]\n"),
        (["quit", "Hi"], {}, ""),
        (["/quit", "Hi"], {}, ""),
        (["QUIT"], {}, ""),
        (["reset"], {}, "[forgotten]\n"),
    ],
)
def test_commands(chat, lines, settings, screen):
    assert chat(lines, **settings)[:2] == (0, screen)


@pytest.mark.parametrize("command", ["reset", "/reset", " Reset "])
def test_reset_forgets(chat, command):
    _, _, terminal = chat(["One", command, "Two"])
    assert [message["content"] for message in terminal.session.model.prompts[-1]] == ["Two"]


def test_retry_replies_to_the_same_message(chat):
    _, screen, terminal = chat(["Hi", "/retry"], ["One."], ["Two."])
    assert screen == "One.\nTwo.\n" and [message["content"] for message in terminal.session.history] == ["Hi", "Two."]


@pytest.mark.parametrize("message", ["please reset it", "/etc/passwd is a file", "quit it"])
def test_what_only_looks_like_a_command_is_said(chat, message):
    _, _, terminal = chat([message])
    assert terminal.session.model.prompts[0][-1]["content"] == message


def test_stats_and_save(chat, tmp_path):
    _, screen, _ = chat(["Hi", "/stats", f"/save {tmp_path}/talk.jsonl", f"/save {tmp_path}/talk.jsonl"])
    assert "last reply: reaction 0." in screen and "5 tokens" in screen
    assert f"[written to {tmp_path}/talk.jsonl]" in screen and "talk.jsonl: exists" in screen


@pytest.mark.parametrize(
    ("reply", "screen"),
    [
        (["Just ", "words.\n"], "Just words.\n\n"),
        (
            ["<reasoning>lost</reasoning><answer>sad</answer>"],
            "reasoning: lost\nanswer: sad\n",
        ),
        (
            ["<react>*nods*</react> Then."],
            "*nods*\nThen.\n[the reply breaks its format; the model's output:]\n<react>*nods*</react> Then.\n",
        ),
        (
            ["<react>*nods*"],
            "[the reply breaks its format; the model's output:]\n<react>*nods*\n",
        ),
        (["Oh </react>"], "Oh </react>\n[the reply breaks its format]\n"),
        ([], "[the reply is empty; rephrase the message]\n"),
    ],
)
def test_other_replies(chat, reply, screen):
    assert chat(["Hi"], reply)[1] == screen


THINKING = f"{DIM}thinking …{RESET}"


@pytest.mark.parametrize(
    ("reply", "settings", "screen"),
    [
        (["<think>Who", " is it?</think>\n", "Hello."], {}, f"{THINKING}{DIM} 3 words (see /thought){RESET}\nHello.\n[Who is it?]\n"),
        (["<think>Who?</think>", "Hello."], {"show_reflection": True}, f"{DIM}thought: {RESET}{DIM}Who?{RESET}\nHello.\n[Who?]\n"),
        (["<think>\n\n</think>\n\nHello."], {}, "Hello.\n[the last reply has no thought]\n"),
        (["<think>Who"], {}, f"{THINKING}\n[the reply is empty; rephrase the message]\n[the last reply has no thought]\n"),
        (["<think>A</think>Oh </react>"], {}, f"{THINKING}{DIM} 1 word (see /thought){RESET}\nOh </react>\n[the reply breaks its format]\n[A]\n"),
    ],
)  # fmt: skip
def test_a_thought_is_folded(chat, reply, settings, screen):
    seen = chat(["Hi", "/thought"], reply, styled=True, **settings)[1]
    assert seen.replace(f"{DIM}[", "[").replace(f"]{RESET}", "]") == screen


def test_nothing_that_a_model_writes_reaches_the_terminal_raw(chat):
    reply = ["<react>\x1b[31m*red*</react><respond>\x1b]0;ti", "tle\x07 \x1b", "[2J\u202ehi</respond>"]
    reply += ["<reflect>\x1b[5m</reflect>", "\x9b1m"]
    _, screen, _ = chat(["Hi", "/reflect"], reply, show_reflection=True)
    assert "\\x1b[31m*red*" in screen and "\\x1b]0;title\\x07 \\x1b[2Jhi" in screen
    assert not set(screen) & set("\x1b\x07\x9b\u202e")


def test_ctrl_c_stops_a_reply_and_the_session_goes_on(chat):
    def interrupted(messages, stop):
        yield "One "
        signal.raise_signal(signal.SIGINT)
        yield "two"

    status, screen, terminal = chat(["Hi", "Go on"], interrupted, ["Next."])
    assert status == 0 and screen == "One \n[stopped]\nNext.\n"
    assert terminal.session.model.prompts[1][1]["content"] == "One "


def test_ctrl_c_twice_ends_even_a_reply_that_does_not_stop():
    stops = []
    with pytest.raises(KeyboardInterrupt), stopping(lambda: stops.append(1)):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert stops == [1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_at_the_prompt_hints_and_twice_leaves(chat):
    hint = "\n[type quit or press Ctrl-C again to leave]\n"
    status, screen, _ = chat([KeyboardInterrupt(), "Hi", KeyboardInterrupt(), KeyboardInterrupt(), "never"], ["Ho."])
    assert status == 130 and screen == f"{hint}Ho.\n{hint}\n"


def test_a_model_that_fails_is_told_and_the_session_goes_on(chat):
    def fails(messages, stop):
        yield "<react>*no"
        raise UserError("no connection\x1b[2J")

    assert chat(["Hi", "Again"], fails, ["Fine."])[1] == "[no connection\\x1b[2J]\nFine.\n"


def test_several_lines_are_one_message(chat):
    _, _, terminal = chat(["one\r\ntwo\rthree\udcff"])
    assert terminal.session.model.prompts[0][0]["content"] == "one\ntwo\nthree?"


@pytest.mark.parametrize(
    ("tty", "environment", "styled"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False), (False, {}, False)],
)
def test_styles_only_for_terminals_that_want_them(monkeypatch, tty, environment, styled):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: tty)
    assert Terminal(Session(ScriptedModel(STAGED), Prompts(), Settings())).styled is styled


def test_notes_are_dim(chat):
    assert chat(["reset"], styled=True)[1] == f"{DIM}[forgotten]{RESET}\n"

"""recipes/chat.py, driven through a terminal as a user does, and what it says to wrong arguments."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chat.small_models import sharpened, small
from tests.chat.streaming_server import StreamingServer
from tests.models.scripted_server import picky
from tests.recipes.scripts import script
from tests.trainers.tiny_t5 import save_t5

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60  # seconds; a busy machine starts slowly


class Screen:
    """A chat in a pseudo-terminal."""

    def __init__(self, *arguments, **environment):
        self.text, self.start = "", 0
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            settings = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "OPENAI_API_KEY": "", **environment}
            os.environ.pop("NO_COLOR", None)
            command = [sys.executable, str(ROOT / "recipes" / "chat.py"), *arguments]
            os.execvpe(sys.executable, command, os.environ | settings)

    def type(self, text: str):
        data = text.encode()
        while data:  # a terminal takes some thousand bytes at a time, and meanwhile shows them
            self._read(0)
            if select.select([], [self.terminal], [], 0.05)[1]:
                data = data[os.write(self.terminal, data[:1024]) :]

    def wait(self, pattern: str, timeout: float = TIMEOUT):
        """Wait until what came since the last wait matches."""
        ends = time.monotonic() + timeout
        while (found := re.search(pattern, self.text[self.start :])) is None:
            assert time.monotonic() < ends, f"no {pattern!r} in {self.text[self.start :]!r}"
            self._read(0.1)
        self.start += found.end()

    def interrupt(self, pattern: str):
        """Type Ctrl-C at the prompt, as a person who tries again: Python hears of one between prompt and input only then."""
        for _ in range(10):
            self.type("\x03")
            with suppress(AssertionError):
                return self.wait(pattern, TIMEOUT / 10)
        raise AssertionError(f"Ctrl-C does nothing: {self.text!r}")

    def status(self) -> int:
        """Wait for the end and return the exit status."""
        ends = time.monotonic() + TIMEOUT
        while time.monotonic() < ends:
            self._read(0.05)
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                self.process = None
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"does not end: {self.text!r}")

    def _read(self, timeout: float):
        if select.select([self.terminal], [], [], timeout)[0]:
            try:
                self.text += os.read(self.terminal, 65536).decode(errors="replace")
            except OSError:  # its other end is closed
                time.sleep(timeout)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.terminal)


def chat(server, *arguments, **environment):
    return Screen("--model", "openai:m", "--base_url", server.base_url, *arguments, **environment)


STAGED = ["<react>*nods* + *sits*</react>\n<respond>I am ", "here.</respond>\n<reflect>They wait.</reflect>"]


def test_a_conversation_in_a_terminal():
    gate = threading.Event()

    def answer(request):
        yield STAGED[0]
        gate.wait(TIMEOUT)
        yield STAGED[1]

    with StreamingServer(answer) as server, chat(server, "--context", "2000") as screen:
        screen.wait("> ")
        screen.type("Hello\r")
        screen.wait(r"\x1b\[2;3m\*nods\* \+ \*sits\*\x1b\[0m\r\n")
        screen.wait("I am ")
        assert "here." not in screen.text
        gate.set()
        screen.wait("here.")
        screen.wait("> ")
        assert "They wait." not in screen.text
        screen.type("/reflect\r")
        screen.wait("They wait.")
        screen.wait("> ")
        screen.type("\x1b[200~one\rtwo\x1b[201~\r")  # a paste of two lines is one message
        screen.wait("here.")
        screen.wait("> ")
        screen.type("\x1b[200~" + "word " * 20_000 + "\x1b[201~\r")  # 100 kB
        screen.wait(r"the message is too long: \d+ tokens, and at most \d+ fit into the context of 2000")
        screen.type("\r")
        screen.wait("type a message")
        screen.wait("> ")
        screen.type("\x04")
        assert screen.status() == 0
    assert [request["messages"][-1]["content"] for request in server.requests] == ["Hello", "one\ntwo"]


def test_ctrl_c_stops_a_reply_keeps_the_session_and_twice_at_the_prompt_leaves():
    def answer(request):
        if len(server.requests) > 1:
            yield "Next."
            return
        while True:
            yield "word "
            time.sleep(0.02)

    with StreamingServer(answer) as server, chat(server) as screen:
        screen.wait("> ")
        screen.type("Hello\r")
        screen.wait("word word ")
        screen.type("\x03")
        screen.wait("stopped")
        assert server.left.wait(TIMEOUT)
        screen.wait("> ")
        screen.type("Go on\r")
        screen.wait("Next.")
        screen.wait("> ")
        screen.interrupt("Ctrl-C again")
        screen.wait("> ")
        screen.interrupt("\r\n")
        assert screen.status() == 130
    roles = [message["role"] for message in server.requests[1]["messages"]]
    assert roles == ["user", "assistant", "user"] and server.requests[1]["messages"][1]["content"].startswith(
        "word word"
    )
    assert "Traceback" not in screen.text


def test_a_pipe_needs_no_terminal():
    with StreamingServer(lambda request: STAGED) as server:
        command = [sys.executable, ROOT / "recipes" / "chat.py", "--model", "openai:m", "--base_url", server.base_url]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": ""}
        result = subprocess.run(
            command, input=b"Hello \xff\n\nquit\n", env=environment, capture_output=True, timeout=TIMEOUT, check=False
        )
    assert (result.returncode, result.stderr) == (0, b"")
    assert server.requests[0]["messages"][0]["content"] == "Hello ?"
    assert result.stdout.decode().splitlines()[1:] == [
        "*nods* + *sits*",
        "I am here.",
        "[type a message; /help lists the commands]",
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with models: base, other (as large), shallower, adapter (of base), t5."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("models")
    sizes = {"base": {"seed": 0}, "other": {"seed": 1}, "shallower": {"layers": 1}, "moved": {"seed": 0}}
    for name, settings in sizes.items():
        for part in sharpened(**settings):
            part.save_pretrained(root / name)
    save_t5(root / "t5")
    for name, base in (
        ("adapter", root / "base"),
        ("stale", "/gone/base"),
        ("hub2", "USER/x"),
    ):
        model, tokenizer = small()
        model.name_or_path = str(base)
        adapter = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        adapter.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture
def run(models, monkeypatch, capsys):
    """Return a function that runs the script in this process; typed lines are `Hi` and `quit`."""
    monkeypatch.chdir(models)

    def call(*arguments, typed="Hi\nquit\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = script("chat")([*arguments, "--seed", "1", "--max_new_tokens", "12"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "base"],
        ["--model", "t5"],
        ["--model", "adapter"],
        ["--model", "base", "--adapter", "adapter"],
        ["--model", "moved", "--adapter", "stale"],
        ["--model", "base", "--recipe", "ed4_tiny", "--temperature", "0"],
    ],
)
def test_every_kind_of_model_talks(run, arguments):
    status, screen, error = run(*arguments, typed="How are you?\n/stats\nquit\n")
    assert status == 0 and error == ""
    assert "tokens/s" in screen and "no reply yet" not in screen
    assert ("prompted as ed4 trains" in screen) == ("--recipe" in arguments)


@pytest.mark.faults
def test_a_server_that_refuses_a_setting_is_talked_to_with_the_flag_it_is_answered_with(run):
    sampling = '{"max_tokens": null, "max_completion_tokens": 12, "temperature": null}'
    with StreamingServer(lambda request: refusal[::2] if (refusal := picky(request)) else ["Hi ", "there"]) as server:
        arguments = ("--model", "openai:m", "--base_url", server.base_url)
        _, screen, error = run(*arguments, typed="Hello\nquit\n")
        assert """--sampling '{"max_tokens": null, "max_completion_tokens": 12}'""" in screen + error
        status, screen, _ = run(*arguments, "--sampling", sampling, typed="Hello\nquit\n")
    assert status == 0 and "Hi there" in screen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "base", "--sampling", '{"seed": 1}'], "sampling: is for a model openai:NAME, got model base"),
        (["--model", "./nowhere"], "./nowhere: no such folder"),
        (["--model", "."], ".: is not a model, but contains models; expected one of adapter, base, "),
        (["--model", "./now\x1b[31m"], "./now\\x1b[31m: no such folder"),
        (["--model", "base", "--adapter", "./nowhere"], "adapter ./nowhere: no such folder"),
        (["--model", "base", "--adapter", "other"], "adapter other: cannot be read: expected adapter_config.json"),
        (["--model", "other", "--adapter", "adapter"], "/base, but the model is other; expected that base"),
        (["--model", "shallower", "--adapter", "stale"], "was trained on /gone/base, but the model is shallower"),
        (["--model", "t5", "--adapter", "stale"], "was trained on /gone/base, but the model is t5"),
        (["--model", "base", "--adapter", "hub2"], "was trained on USER/x, but the model is base"),
        (["--model", "adapter", "--adapter", "stale"], "adapter is an adapter itself"),
        (["--model", "base", "--temperature", "-1"], "temperature: got -1.0, expected a number from 0 to 10"),
        (["--model", "openai:"], "expected the model's name on the server"),
        (["--model", "base", "--web", "--port", "70000"], "cannot listen on 127.0.0.1, port 70000"),
    ],
)
def test_what_the_user_can_fix_is_one_error_without_a_traceback(run, arguments, message):
    status, _, error = run(*arguments)
    assert status == 2 and error.startswith("error: ") and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --model"),
        (["--model", "m", "--temperature", "warm"], "invalid float value: 'warm'"),
        (["--model", "m", "--context", "0"], "expected a whole number above 0"),
    ],
)
def test_wrong_arguments_end_with_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        script("chat")(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_page_needs_gradio(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "empathy_trl.chat.web", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, _, error = run("--model", "openai:m", "--base_url", "http://localhost/v1", "--web")
    assert status == 2 and 'pip install "empathy-trl[web]"' in error


def test_a_page_may_take_any_free_port(run, monkeypatch):
    pytest.importorskip("gradio")
    asked = []
    monkeypatch.setattr("empathy_trl.chat.web.serve", lambda make_session, *where: asked.append(where))
    served = ("--model", "openai:m", "--base_url", "http://localhost/v1")
    assert run(*served, "--web", "--port", "0")[0] == 0 and asked == [("openai:m", "127.0.0.1", 0)]

"""How commands end, and how they show progress."""

import itertools
import os
import platform
import re
from types import SimpleNamespace

import huggingface_hub
import pytest
from torch.distributed import TCPStore

from empathy_trl import cli
from empathy_trl.errors import UserError


@pytest.mark.faults
def test_an_error_of_all_processes_is_printed_once_and_one_of_another_with_its_number(monkeypatch, capsys):
    store = TCPStore("127.0.0.1", 0, is_master=True)  # the launcher's
    monkeypatch.setattr(cli, "ERROR_WAIT", 1)
    for name, value in {
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
    }.items():
        monkeypatch.setenv(name, str(value))

    def ends_with(rank, message):
        def work():
            raise UserError(message)

        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank % int(os.environ["LOCAL_WORLD_SIZE"])))
        assert cli.exit_status(work) == 2
        return capsys.readouterr().err

    alone = "error (process 1 of 2, counted from 0): no folder here\n"
    assert ends_with(1, "no folder here") == alone  # while the first process goes on
    assert ends_with(0, "a typo") == "error: a typo\n"
    assert ends_with(1, "a typo") == ""
    assert ends_with(1, "no folder here") == alone
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # two nodes, each with a terminal of its own
    assert ends_with(1, "a typo") == f"error (process 1 of 2, counted from 0, on {platform.node()}): a typo\n"


@pytest.fixture
def no_variables(monkeypatch):
    for name in (cli.NO_BARS, "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "")  # restored after the test
    huggingface_hub.utils.enable_progress_bars()  # an earlier test may have called a command
    yield
    huggingface_hub.utils.enable_progress_bars()


def loop(rows):
    with cli.Progress("generate", rows, "prompt") as progress:
        for _ in range(rows):
            progress.update()


@pytest.mark.parametrize(
    ("quiet", "terminal", "bars"),
    [(False, True, True), (True, True, False), (False, False, False), (None, False, True)],
)
def test_bars_are_for_terminals_and_lines_for_logs(quiet, terminal, bars, no_variables, monkeypatch, capsys):
    clock = itertools.count(step=11)
    monkeypatch.setattr(cli, "time", SimpleNamespace(monotonic=clock.__next__))
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    assert cli.exit_status(lambda: loop(25), quiet=quiet) == 0
    shown = capsys.readouterr().err
    assert ("25/25" in shown) == bars
    assert huggingface_hub.utils.are_progress_bars_disabled() != bars
    if not bars:
        lines = shown.splitlines()
        assert len(lines) == 10, "one for every tenth"
        assert (
            lines[0] == "[generate] prompt 3 of 25, 3 min left" and lines[-1] == "[generate] prompt 25 of 25, 0 s left"
        )


def test_a_short_loop_leaves_no_line_and_a_bar_below_another_vanishes(no_variables, monkeypatch, capsys):
    with cli.Progress("sft", 1, "step") as outer:
        loop(3)
        outer.update()
    *_, generate, sft, end = re.split(r"[\r\n]+", capsys.readouterr().err)
    assert "3/3" not in sft + end and sft.startswith("sft: 100%"), generate
    monkeypatch.setenv(cli.NO_BARS, "1")
    loop(1000)
    monkeypatch.delenv(cli.NO_BARS)
    monkeypatch.setenv("RANK", "1")
    loop(3)
    assert capsys.readouterr().err == "", "neither in a second process"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (61, "1 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_in_words(seconds, words):
    assert cli.in_words(seconds) == words

"""How commands end."""

import os
import platform

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

"""Locks of output folders and files; two real processes."""

import os
import signal

import pytest

from empathy_trl.errors import UserError
from empathy_trl.io import LOCK_FILE, hold_file, hold_folder, is_empty


@pytest.mark.faults
def test_one_process_holds_a_folder_and_one_that_is_killed_holds_it_no_more(tmp_path, holder):
    folder = tmp_path / "run"
    other = holder("folder", folder)
    refusal = rf"{folder}: process {other.pid} on \S+ \(user \S+, since 20\d\d-.*\) writes"
    stages = [tmp_path / "other", folder]
    # the folder itself; that of a stage, which belongs to the run; and a run, which needs the folders of its stages
    for wanted in ((folder,), (folder / "grpo",), (tmp_path, stages)):
        with pytest.raises(UserError, match=refusal), hold_folder(*wanted):
            pass
    with hold_folder(folder / "evaluations" / "grpo"):  # what lies deeper is another result
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert (folder / LOCK_FILE).exists()
    with hold_folder(folder), hold_folder(folder):  # the same thread may nest it
        assert is_empty(tmp_path / "run" / "grpo") and (folder / LOCK_FILE).exists()
    assert not (folder / LOCK_FILE).exists()


@pytest.mark.faults
def test_a_file_is_held_apart_from_its_neighbours(tmp_path, holder):
    other = holder("file", tmp_path / "scores.jsonl")
    with (
        pytest.raises(UserError, match=rf"scores.jsonl: process {other.pid} on "),
        hold_file(tmp_path / "scores.jsonl"),
    ):
        pass
    with hold_file(tmp_path / "more.jsonl"), hold_folder(tmp_path):
        pass


@pytest.mark.faults
def test_a_lock_of_another_machine_stays_until_its_file_is_deleted(tmp_path):
    with hold_folder(tmp_path):
        lock = (tmp_path / LOCK_FILE).read_text()
    (tmp_path / LOCK_FILE).write_text(lock.replace(os.uname().nodename, "another-node"))
    with (
        pytest.raises(UserError, match=rf"on another-node .* delete {tmp_path / LOCK_FILE} and start"),
        hold_folder(tmp_path),
    ):
        pass
    (tmp_path / LOCK_FILE).unlink()
    with hold_folder(tmp_path):
        pass

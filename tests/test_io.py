"""Reading text and JSON, whoever wrote the file; locks of output folders and files, with two real processes."""

import gzip
import os
import signal

import pytest

from empathy_trl.errors import DataError, UserError
from empathy_trl.io import (
    LOCK_FILE,
    hold_file,
    hold_folder,
    is_empty,
    json_or_none,
    nearest_path,
    on_hub,
    read_json,
    read_rows,
    read_text,
    user_name,
    user_path,
)

TEXT = '{"a": 1}\n'


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", TEXT.encode()),
        ("x.json", TEXT.encode("utf-8-sig")),
        ("x.json", TEXT.replace("\n", "\r\n").encode()),
        ("X.JSON.GZ", gzip.compress(TEXT.encode("utf-8-sig"), mtime=0)),
    ],
)
def test_marks_and_compression_make_no_difference(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert read_rows(path) == [{"a": 1}] and read_json(path) == json_or_none(path) == {"a": 1}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("utf-16"), r"x\.json: the text is UTF-16, not UTF-8; save the file as UTF-8"),
        (TEXT.encode("utf-32"), r"x\.json: the text is UTF-32"),
        (TEXT.encode("utf-16-le"), r"line 1: NUL byte at offset 1: a binary file, or UTF-16"),
        (b"\xef\xbb\xbf{}\r\n\xff", r"x\.json, line 2: byte 0xff at offset 7 is not UTF-8"),
        (None, r"x\.json: cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_text(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    for read in (read_text, read_rows, read_json):
        with pytest.raises(DataError, match=message):
            read(path)
    assert json_or_none(path) is None


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"a": "one\u2028line"}\r\n\r{"a": 2}\r{'.encode())
    with pytest.raises(UserError, match=r"x\.jsonl, line 4: not valid JSON"):
        read_rows(path)
    assert read_rows(path, last_may_be_cut=True) == [{"a": "one\u2028line"}, {"a": 2}]


@pytest.mark.faults
def test_one_process_holds_a_folder_and_one_that_is_killed_holds_it_no_more(tmp_path, holder):
    folder = tmp_path / "run"
    other = holder("folder", folder)
    refusal = rf"{folder}: process {other.pid} on \S+ \(user \S+, since 20\d\d-.*\) is writing"
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
        assert is_empty(folder) and (folder / LOCK_FILE).exists()
    assert not (folder / LOCK_FILE).exists()


@pytest.mark.faults
def test_one_of_several_processes_takes_over_the_lock_of_a_killed_one(tmp_path, holder):
    other = holder("folder", tmp_path)
    os.kill(other.pid, signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie, whose parent does not reap it
    started = [holder("folder", tmp_path, wait=False) for _ in range(3)]
    said = {process.pid: process.stdout.readline() for process in started}
    [winner] = [pid for pid, line in said.items() if line == "held\n"]
    assert all(f"process {winner} on" in line for pid, line in said.items() if pid != winner)


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
@pytest.mark.parametrize("content", ["", "filelock-soft"])
def test_a_lock_that_names_nobody_is_taken_over(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)  # its process was killed between creating and writing it
    with hold_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()
    assert not (tmp_path / LOCK_FILE).exists()


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


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, also $WORK, that is the current one: with m, models/model, a link to it, and one repository in the Hub's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WORK", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for folder in ("m", "models/model", "cache/models--models--cached/snapshots/1/config.json"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("models/model")
    return tmp_path


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "read"),
    [
        *[(text, "m") for text in ("m", "m/", "./m", ".//m/", "models/../m", "./models/./../m")],
        *[(text, "HOME/m") for text in ("~/m", "$WORK/m/", "${WORK}/./m", "HOME//m")],
        ("link/../model", "link/../model"),  # beside what the link leads to
        ("~/new/", "HOME/new/"),
        *[
            (text, text)
            for text in ("me/model", "gpt2", "me/model@refs/pr/1", "stage:sft", "openai:a//b/", "hub:me/x@v1", "")
        ],
        *[(text, text) for text in ("./gpt2", "gpt2/", "../m", "./modle", "outputs/x/y")],  # never a Hub id
    ],
)
def test_a_name_means_the_same_however_it_is_written(home, name, read):
    read = read.replace("HOME", str(home))
    assert user_name(name.replace("HOME", str(home))) == read
    assert not name.startswith((".", "~", "$")) or not on_hub(read)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$NOWHERE/m", r"^\$NOWHERE/m: the environment variable NOWHERE is not set"),
        ("a/${NO_WHERE}", "the environment variable NO_WHERE is not set"),
        ("~nobody-here/m", "no user 'nobody-here' on this machine"),
        ("", "the path is empty"),
    ],
)
def test_a_path_that_means_nothing_is_an_error(home, path, message):
    with pytest.raises(UserError, match=message):
        user_path(path)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "is_id", "nearest"),
    [
        ("models/modle", False, "; did you mean models/model?"),
        ("modles/model", True, "; did you mean models/model?"),
        ("models/cached", True, ""),
        ("modles", True, "; did you mean models?"),
        ("me/other", True, ""),
        ("m", False, ""),
    ],
)
def test_a_mistyped_path_is_told_from_a_hub_id(home, name, is_id, nearest):
    assert (on_hub(name), nearest_path(name)) == (is_id, nearest)

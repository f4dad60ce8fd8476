"""recipes/check_dialogues.py: what it counts and shows, that a repair changes nothing but spelling, and what it refuses."""

import gzip
import json
from pathlib import Path

import pytest

from empathy_trl.data import build
from empathy_trl.recipe import Data
from tests.recipes.scripts import ROOT, script

REAL = ROOT.parent / "shared" / "data" / "react_respond_reflect"
WHOLE = "<react>*nods* + *leans in*</react>\n<respond>Grüß dich.</respond>\n<reflect>They may say more.</reflect>"
SHOUTED = WHOLE.replace("<react>", "< React >").replace("</reflect>", "</REFLECT >")
UNCLOSED = WHOLE.replace("</reflect>", "")
main = script("check_dialogues")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def dialogue(*replies, **keys):
    messages = [
        each
        for reply in replies
        for each in ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": reply})
    ]
    return keys | {"messages": messages}


def write(name, *rows, **how):
    lines = [row if isinstance(row, str) else json.dumps(row, **how) for row in rows]
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", newline="")
    return path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_all_is_well(capsys):
    write("talks.jsonl", dialogue(WHOLE, WHOLE), dialogue(f" {WHOLE}"))
    status, told, _ = run(capsys, "--input", "talks.jsonl")
    assert status == 0
    assert told.splitlines() == [
        "             talks.jsonl",
        "dialogues              2",
        "turns                  3",
        "well-formed            3",
    ]


def test_every_kind_is_counted_for_every_file_and_the_first_five_are_shown(capsys):
    write("in/a.jsonl", dialogue(WHOLE, UNCLOSED), "", *[dialogue("words")] * 7)
    write("in/b.jsonl", dialogue(SHOUTED, UNCLOSED), {"messages": []}, "{")
    write("in/notes.txt", "no dialogue")
    status, told, _ = run(capsys, "--input", "in")
    assert status == 1
    lines = [line.split() for line in told.split("\n\n")[0].splitlines()]
    assert lines == [
        ["a.jsonl", "b.jsonl"],
        ["dialogues", "8", "3"],
        ["turns", "9", "2"],
        ["well-formed", "1", "0"],
        ["tag", "not", "closed", "1", "1"],
        ["no", "tags", "7", "0"],
        ["upper", "case", "or", "spaces", "in", "a", "tag", "0", "1"],
        ["no", "messages", "0", "1"],
        ["not", "JSON", "0", "1"],
    ]
    assert "tag not closed (2):\n  a.jsonl, line 1, turn 2: no </reflect>\n  b.jsonl, line 1, turn 2: no </r" in told
    shown = "".join(f"  a.jsonl, line {line}, turn 1: 'words'\n" for line in range(3, 8))
    assert f"no tags (7):\n{shown}  and 2 more\n" in told
    assert "a tag (1):\n  b.jsonl, line 1, turn 1: '< React >' for <react>, '</REFLECT >' for </reflect>\n" in told
    assert "not JSON (1):\n  b.jsonl, line 3: Expecting property name" in told


def test_a_repair_shows_every_change_and_touches_nothing_else(capsys):
    odd = '{"messages" :[{"role":"user","content":"Hi"}],  "score": 1e2, "kept": "\\u00fc"}'
    broken = dialogue(SHOUTED, UNCLOSED, WHOLE, conversation_id=3, more={"a": [1.50, None]})
    broken["messages"][1]["name"] = "< React >"
    source = write("talks.jsonl", odd, broken, "", dialogue(UNCLOSED), "{", ensure_ascii=False)
    before = source.read_text()
    status, told, _ = run(capsys, "--input", source, "--fix", "--output", "new/fixed.jsonl")
    assert status == 1  # what is left
    assert told.startswith(
        "repaired turns: 1\n"
        "talks.jsonl, line 2, turn 1: '< React >*nods* + *leans in*</react>\\n<respond>Grüß dich.</re…' → "
        "'<react>*nods* + *leans in*</react>\\n<respond>Grüß dich.</resp…'\n\nwhat is in new/fixed.jsonl:\n"
    )
    assert "tag not closed (2):\n  talks.jsonl, line 2, turn 2: " in told and "a tag (" not in told
    assert source.read_text() == before
    after = Path("new/fixed.jsonl").read_text().split("\n")
    old = before.split("\n")
    assert [new == line for new, line in zip(after, old, strict=True)] == [True, False, True, True, True, True]
    broken["messages"][1]["content"] = WHOLE
    assert json.loads(after[1]) == broken and list(json.loads(after[1])) == list(broken)
    assert "Grüß" in after[1]


def test_a_repaired_folder_can_be_trained_on(capsys):
    write("in/train.jsonl", dialogue(SHOUTED), dialogue(WHOLE))
    write("in/test.jsonl", dialogue(WHOLE.replace("\n", " ")))
    with pytest.raises(ValueError, match="upper case or spaces in a tag"):
        build(Data(name="empath", path="in"), "train", "sft")
    status, told, _ = run(capsys, "--input", "in", "--fix", "--output", "out")
    assert status == 0 and told.startswith("repaired turns: 2\n")
    assert [
        row["turn"] for split in ("train", "test") for row in build(Data(name="empath", path="out"), split, "sft")
    ] == [WHOLE] * 3
    assert run(capsys, "--input", "out", "--fix", "--output", "again")[1].startswith("repaired turns: 0\n")
    for name in ("train", "test"):
        assert Path(f"again/{name}.jsonl").read_bytes() == Path(f"out/{name}.jsonl").read_bytes()


def test_a_change_late_in_a_turn_is_shown_where_it_is(capsys):
    late = (
        WHOLE.replace("Grüß dich.", "word " * 500).replace("</respond>", "\x1b</RESPOND>").replace("word \x1b", "\x1b")
    )
    write("talks.jsonl", dialogue(late))
    _, told, _ = run(capsys, "--input", "talks.jsonl", "--fix", "--output", "fixed.jsonl")
    change = told.splitlines()[1]
    assert "turn 1: '…d word word word \\x1b</RESPOND>\\n" in change and "\x1b" not in told and len(change) < 200


def test_a_system_message_does_not_shift_the_repair(capsys):
    row = dialogue(WHOLE, SHOUTED)
    row["messages"].insert(0, {"role": "system", "content": "Be kind."})
    write("talks.jsonl", row)
    assert run(capsys, "--input", "talks.jsonl", "--fix", "--output", "fixed.jsonl")[0] == 0
    row["messages"][4]["content"] = WHOLE
    assert json.loads(Path("fixed.jsonl").read_text()) == row


def test_byte_order_mark_line_ends_escapes_and_half_characters_stay(capsys):
    Path("talks.jsonl").write_bytes(
        b"\xef\xbb\xbf"
        + json.dumps(dialogue(SHOUTED)).encode()
        + b"\r\n"
        + json.dumps(dialogue(SHOUTED, note="ü"), ensure_ascii=False).replace("Hi", "\\ud800\\u0000 Hi").encode()
    )
    assert run(capsys, "--input", "talks.jsonl", "--fix", "--output", "fixed.jsonl.gz")[0] == 0
    first, second = gzip.decompress(Path("fixed.jsonl.gz").read_bytes()).split(b"\n")
    assert first == b"\xef\xbb\xbf" + json.dumps(dialogue(WHOLE)).encode() + b"\r"
    repaired = dialogue(WHOLE, note="ü")
    repaired["messages"][0]["content"] = "\ud800\0 Hi"
    assert json.loads(second) == repaired
    assert run(capsys, "--input", "fixed.jsonl.gz")[0] == 0


def test_what_users_type_is_no_fault_and_is_not_repaired(capsys):
    row = dialogue(WHOLE)
    row["messages"][0]["content"] = "< React >hi</REACT>"
    write("talks.jsonl", row)
    assert run(capsys, "--input", "talks.jsonl", "--fix", "--output", "fixed.jsonl")[0] == 0
    assert Path("fixed.jsonl").read_bytes() == Path("talks.jsonl").read_bytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--input", "nowhere"], "--input: no file or folder 'nowhere'"),
        (["--input", "empty"], r"--input: empty has no *.jsonl or *.jsonl.gz (files found: none)"),
        (["--input", "nothing.jsonl"], "nothing.jsonl: the file is empty; expected one JSON object a line with"),
        (["--input", "list.jsonl"], "list.jsonl: no line is a JSON object; line 1: '[1]'"),
        (["--input", "bytes.jsonl"], "bytes.jsonl, line 2: byte 0xff at offset 4 is not UTF-8"),
        (["--input", "nul.jsonl"], "nul.jsonl, line 1: NUL byte at offset 1"),
        (["--input", "talks.jsonl", "--fix"], "--fix writes what it repairs to --output; give both, or neither"),
        (["--input", "talks.jsonl", "--output", "new.jsonl"], "--fix writes what it repairs to --output"),
        (["--input", "talks.jsonl", "--fix", "--output", "talks.jsonl"], "--output: talks.jsonl is there already"),
        (["--input", "talks.jsonl", "--fix", "--output", "nul.jsonl"], "--output: nul.jsonl is there already"),
        (["--input", "in", "--fix", "--output", "in"], "--output: in/talks.jsonl is there already"),
        (["--input", "in", "--fix", "--output", "talks.jsonl"], "--output: cannot write to talks.jsonl/talks.jsonl"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_written(capsys, arguments, message):
    for name, content in (("talks.jsonl", json.dumps(dialogue(WHOLE)).encode()), ("nothing.jsonl", b""), ("nul.jsonl", b"{\0"),
                          ("list.jsonl", b"[1]"), ("bytes.jsonl", b"{}\n\"\xff")):  # fmt: skip
        Path(name).write_bytes(content)
    Path("empty").mkdir()
    write("in/talks.jsonl", dialogue(SHOUTED))
    there = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    status, told, error = run(capsys, *arguments)
    assert (status, told) == (2, "") and error.startswith(f"error: {message}")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == there


def test_nothing_is_written_where_one_file_cannot_be_read(capsys):
    write("in/a.jsonl", dialogue(SHOUTED))
    write("in/b.jsonl", "[1]")
    assert run(capsys, "--input", "in", "--fix", "--output", "out")[0] == 2
    assert not Path("out").exists()


def test_the_sample_passes(capsys):
    assert run(capsys, "--input", ROOT / "empathy_trl" / "data" / "sample" / "empath")[0] == 0


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not here")
def test_the_real_dialogues_pass(capsys):
    status, told, _ = run(capsys, "--input", REAL)
    assert status == 0
    assert [line.split()[-1] for line in told.splitlines()] == ["dialogues.jsonl", "10", "127", "127"]

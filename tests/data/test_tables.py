"""Finding and reading tables: CSV, TSV, JSON Lines; whatever is wrong with a file or a row has one clear message."""

import gzip
import json

import pytest

from empathy_trl.data.tables import BadRow, local_path, read_objects, read_table, split_file
from empathy_trl.errors import DataError


def write(folder, name, content):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return folder / name


GOOD = "text,label\ni won,1\ni lost,0\n"
ROWS = [("i won", "1"), ("i lost", "0")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD, ROWS),
        (b"\xef\xbb\xbf" + GOOD.encode(), ROWS),
        (GOOD.replace("\n", "\r\n"), ROWS),
        (GOOD.rstrip("\n"), ROWS),
        ("\ntext,label\n\ni won,1\n\n\n", ROWS[:1]),
        ("aug_text,label, text ,,\nx,3,i hid,,\n", [("i hid", "3")]),
        ('text,label\n"first\nsecond, ""third""",2\n', [('first\nsecond, "third"', "2")]),
        ('text,label\nshe said "no" to me,2\n', [('she said "no" to me', "2")]),
    ],
    ids=["plain", "bom", "crlf", "no-last-newline", "blank-lines", "other-columns", "quoted-newline", "inner-quotes"],
)
def test_good_csv_files(tmp_path, content, expected):
    table = read_table(write(tmp_path, "x.csv", content), ["text", "label"])
    assert [(row.cells["text"], row.cells["label"]) for row in table.rows] == expected


JSONL = '{"text": "a", "level": 1}\n\n{"text": "b", "level": 0.5, "more": null}\r\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.csv", "text,level\na,1\n", [{"text": "a", "level": "1"}]),
        ("x.tsv", 'text\tlevel\na, b\t1\n"c\td"\t2\n', [{"text": "a, b", "level": "1"}, {"text": "c\td", "level": "2"}]),
        ("x.jsonl", JSONL, [{"text": "a", "level": "1", "more": ""}, {"text": "b", "level": "0.5", "more": ""}]),
        ("X.JSONL", '\ufeff{"text": "one\u2028line"}', [{"text": "one\u2028line"}]),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a", "flag": true}', mtime=0), [{"text": "a", "flag": "True"}]),
    ],
)  # fmt: skip
def test_good_files(tmp_path, name, content, expected):
    table = read_table(write(tmp_path, name, content))
    assert [row.cells for row in table.rows] == expected
    assert table.columns == list(expected[0])
    assert table.source == str(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"x\.csv: the file is empty; expected a header with the columns text, label"),
        ("\n\n", r"x\.csv: the file is empty"),
        ("text,label\n", r"x\.csv: the file has a header but no rows"),
        ("Text,label\na,1\n", r"no column 'text'; did you mean Text\? \(columns found: Text, label\)"),
        ("text,lable\na,1\n", r"no column 'label'; did you mean lable\? \(columns found: text, lable\)"),
        ("i won,1\ni lost,0\n", r"no column 'text' \(columns found: 'i won', 1\)"),
        ("text;label\na;1\n", r"columns found: 'text;label'\); cells must be separated by commas"),
        ("text,label,text\na,1,b\n", r"2 columns are called 'text'; names must differ"),
        (b"text,label\nok,1\ncaf\xe9,1\n", r"x\.csv, line 3: byte 0xe9 at offset 19 is not UTF-8"),
        (b"\xef\xbb\xbftext,label\r\n\xff,1\r\n", r"line 2: byte 0xff at offset 15 is not UTF-8"),
        (GOOD.encode("utf-16"), r"line 1: byte 0xff at offset 0 is not UTF-8"),
        (b"text,label\na\x00b,1\n", r"x\.csv, line 2: NUL byte at offset 12"),
        ('text,label\nok,1\n"never closed,1\nb,0\n', r"record that starts on line 3: unexpected end of data"),
        ('text,label\n"so" she said,1\n', r"record that starts on line 2: ',' expected after '\"'"),
        ("text,label\n" + "a" * 200_000 + ",1\n", r"record that starts on line 2: field larger than field limit"),
    ],
    ids=[
        *("empty", "blank", "only-header", "case", "misspelt", "no-header", "semicolon", "duplicate", "latin-1"),
        *("bom-offset", "utf-16", "nul", "open-quote", "text-after-quote", "huge-cell"),
    ],
)
def test_csv_files_that_cannot_be_used(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, "x.csv", content), ["text", "label"])


def test_bad_lines_are_bad_rows_named_by_line(tmp_path):
    lines = ['{"text": "a"}', '{"text": ', "[1, 2]", "[" * 100_000, '{"text": "b"}']
    table = read_table(write(tmp_path, "x.jsonl", "\n".join(lines)), ["text"])
    bad = [(row.where, row.reason) for row in table.rows if isinstance(row, BadRow)]
    assert bad == [("line 2", "not JSON"), ("line 3", "not a JSON object"), ("line 4", "not JSON")]
    assert table.rows[4].where == "line 5"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "a", r"x\.txt: unknown kind of file; expected a name that ends in \.csv, \.tsv, \.jsonl, \.jsonl\.gz"),
        ("x.jsonl", " \n", r"x\.jsonl: the file is empty; expected one JSON object per line with the columns text"),
        ("x.jsonl", "text,label\na,1\n", r"no line is a JSON object; line 1: Expecting value.*'text,label'"),
        ("x.jsonl", json.dumps([{"text": "a"}]), r"no line is a JSON object; line 1: '\[\{"),
        ("x.jsonl", '{"txt": "a"}', r"x\.jsonl: no column 'text'; did you mean txt\?"),
        ("x.jsonl", b'{"text": "\xff"}', r"x\.jsonl, line 1: byte 0xff at offset 10 is not UTF-8"),
        ("x.jsonl.gz", b"no gzip", r"x\.jsonl\.gz: not a whole gzip file"),
        ("x.jsonl.gz", gzip.compress(b"a" * 5000, mtime=0)[:-9], r"x\.jsonl\.gz: not a whole gzip file"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, name, content), ["text"])


def test_a_ragged_line_of_a_tsv_file_is_a_bad_row(tmp_path):
    (row,) = read_table(write(tmp_path, "x.tsv", "text\tlabel\nx, 1\n")).rows
    assert (row.reason, row.detail) == ("wrong number of cells", "1 cells, the header has 2: 'x, 1'")


def test_objects_keep_their_values(tmp_path):
    table = read_objects(write(tmp_path, "x.jsonl", '{"a": [1], "b": {"c": null}}\n{"a": null}\n3\n'))
    assert [row.cells for row in table.rows[:2]] == [{"a": [1], "b": {"c": None}}, {"a": None, "b": None}]
    assert table.rows[2].reason == "not a JSON object"


@pytest.mark.parametrize("cells", ["a day", "so, a day,1"])
def test_a_row_of_another_width_is_a_bad_row_named_by_its_first_line(tmp_path, cells):
    _, row = read_table(write(tmp_path, "x.csv", f'text,label\n"two\nlines",1\n{cells}\n')).rows
    assert row == BadRow(
        "line 4", "wrong number of cells", f"{cells.count(',') + 1} cells, the header has 2: {cells!r}"
    )


@pytest.mark.parametrize(
    ("split", "name"),
    [("train", "train.csv"), ("valid", "valid.csv"), ("valid", "validation.csv"), ("test", "test.csv")],
)
def test_every_split_has_its_file(tmp_path, split, name):
    path = write(tmp_path, name, GOOD)
    assert split_file(tmp_path, split, (".csv", ".tsv")) == path


def test_a_split_without_its_file_or_with_two(tmp_path):
    with pytest.raises(DataError, match=r"has no train\.csv \(files found: none\)"):
        split_file(tmp_path, "train", (".csv",))
    write(tmp_path, "train.csv", GOOD)
    with pytest.raises(DataError, match=r"has no valid\.csv or validation\.csv \(files found: train\.csv\); look"):
        split_file(tmp_path, "valid", (".csv",), "; look")
    write(tmp_path, "train.tsv", GOOD)
    with pytest.raises(DataError, match=r"has several files for the split train: train\.csv, train\.tsv; keep one"):
        split_file(tmp_path, "train", (".csv", ".tsv"))


@pytest.mark.parametrize("path", ["smaple", "/no/such/folder", "./no/such", "~/no-such-folder-here", "a/b/c"])
def test_a_place_that_does_not_exist_names_the_choices(path):
    with pytest.raises(DataError, match=rf"no folder '{path}' here; expected 'sample' .*, a table or a Hub id"):
        local_path(path, "sample", "a table or a Hub id")

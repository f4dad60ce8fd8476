"""Reading of CSV, TSV and JSON Lines; what is special about CSV is tested with `ed4`."""

import gzip
import json

import pytest

from empathy_trl.data.tables import BadRow, read_objects, read_table
from empathy_trl.errors import DataError


def write(folder, name, content):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return folder / name


JSONL = '{"text": "a", "level": 1}\n\n{"text": "b", "level": 0.5, "more": null}\r\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.csv", "text,level\na,1\n", [{"text": "a", "level": "1"}]),
        (
            "x.tsv",
            'text\tlevel\na, b\t1\n"c\td"\t2\n',
            [{"text": "a, b", "level": "1"}, {"text": "c\td", "level": "2"}],
        ),
        (
            "x.jsonl",
            JSONL,
            [{"text": "a", "level": "1", "more": ""}, {"text": "b", "level": "0.5", "more": ""}],
        ),
        ("X.JSONL", '\ufeff{"text": "one\u2028line"}', [{"text": "one\u2028line"}]),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a", "flag": true}', mtime=0), [{"text": "a", "flag": "True"}]),
    ],
)
def test_good_files(tmp_path, name, content, expected):
    table = read_table(write(tmp_path, name, content))
    assert [row.cells for row in table.rows] == expected
    assert table.columns == list(expected[0])
    assert table.source == str(tmp_path / name)


def test_bad_lines_are_bad_rows_named_by_line(tmp_path):
    lines = ['{"text": "a"}', '{"text": ', "[1, 2]", "[" * 100_000, '{"text": "b"}']
    table = read_table(write(tmp_path, "x.jsonl", "\n".join(lines)), ["text"])
    bad = [(row.where, row.reason) for row in table.rows if isinstance(row, BadRow)]
    assert bad == [("line 2", "not JSON"), ("line 3", "not a JSON object"), ("line 4", "not JSON")]
    assert table.rows[4].where == "line 5"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.txt",
            "a",
            r"x\.txt: unknown kind of file; expected a name that ends in \.csv, \.tsv, \.jsonl, \.jsonl\.gz",
        ),
        ("x.jsonl", " \n", r"x\.jsonl: the file is empty; expected one JSON object a line with the columns text"),
        ("x.jsonl", "text,label\na,1\n", r"no line is a JSON object; line 1: Expecting value.*'text,label'"),
        ("x.jsonl", json.dumps([{"text": "a"}]), r"no line is a JSON object; line 1: '\[\{"),
        ("x.jsonl", '{"txt": "a"}', r"x\.jsonl: no column 'text'; did you mean txt\?"),
        ("x.jsonl", b'{"text": "\xff"}', r"x\.jsonl, line 1: byte 0xff at offset 10 is not UTF-8"),
        ("x.jsonl.gz", b"no gzip", r"x\.jsonl\.gz: not a whole gzip file"),
        ("x.jsonl.gz", gzip.compress(b"a" * 5000, mtime=0)[:-9], r"x\.jsonl\.gz: not a whole gzip file"),
    ],
)
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

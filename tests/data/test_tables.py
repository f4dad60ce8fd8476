"""Reading tables of every format: whatever is wrong with a file or a row has one clear message."""

import gzip

import pytest
from datasets import Dataset

from empathy_trl.data.tables import BadRow, as_table, read_list, read_objects, read_table
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
        ("\ntext,label\n\ni won,1\n\n  \n", ROWS[:1]),
        ("aug_text,label, text ,,\nx,3,i hid,,\n", [("i hid", "3")]),
        ('text,label\n"first\nsecond, ""third""",2\n', [('first\nsecond, "third"', "2")]),
        ('text,label\nshe said "no" to me,2\n', [('she said "no" to me', "2")]),
        (GOOD.replace("\n", "\r"), ROWS),
        ('text,label\n"so" she said,1\n', [("so she said", "1")]),
        (gzip.compress(GOOD.encode(), mtime=0), ROWS),
    ],
    ids=[
        *("plain", "bom", "crlf", "no-last-newline", "blank-lines", "other-columns", "quoted-newline", "inner-quotes"),
        *("cr", "text-after-quote", "gzip"),
    ],
)
def test_good_csv_files(tmp_path, content, expected):
    is_gzip = isinstance(content, bytes) and content[:2] == b"\x1f\x8b"
    table = read_table(write(tmp_path, "x.csv.gz" if is_gzip else "x.csv", content), ["text", "label"])
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
        ("x.tsv.gz", gzip.compress(b"text\nb\n", mtime=0), [{"text": "b"}]),
        ("x.json", '[{"text": "a"},\n {"text": "b", "level": 1}]', [{"text": "a", "level": ""}, {"text": "b", "level": "1"}]),
        ("x.jsonl", '\n[{"text": "a"}]\n', [{"text": "a"}]),
        ("x.json", '{"text": "a"}\r{"text": "b"}', [{"text": "a"}, {"text": "b"}]),
        ("x.json.gz", gzip.compress(b'\xef\xbb\xbf[{"text": "a"}]', mtime=0), [{"text": "a"}]),
    ],
)  # fmt: skip
def test_good_files(tmp_path, name, content, expected):
    table = read_table(write(tmp_path, name, content))
    assert [row.cells for row in table.rows] == expected
    assert table.columns == list(dict.fromkeys(key for row in expected for key in row))
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
        ("text;label\na;1\n", r"x\.csv: cells are separated by semicolons, as in the header 'text;label'; expected commas$"),
        ("text\tlabel\na\t1\n", r"x\.csv: cells are separated by tabs, as in the header 'text\\tlabel'; expected commas, or a name that ends in \.tsv"),
        ("text,label,text\na,1,b\n", r"2 columns are called 'text'; names must differ"),
        (b"text,label\nok,1\ncaf\xe9,1\n", r"x\.csv, line 3: byte 0xe9 at offset 19 is not UTF-8"),
        (b"\xef\xbb\xbftext,label\r\n\xff,1\r\n", r"line 2: byte 0xff at offset 15 is not UTF-8"),
        (b"text,label\na\x00b,1\n", r"x\.csv, line 2: NUL byte at offset 12"),
        ('"text,label\na,1\n', r"x\.csv, line 1: quote not closed in the header"),
    ],
    ids=[
        *("empty", "blank", "only-header", "case", "misspelt", "no-header", "semicolon", "tab", "duplicate", "latin-1"),
        *("bom-offset", "nul", "open-quote"),
    ],
)  # fmt: skip
def test_csv_files_that_cannot_be_used(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, "x.csv", content), ["text", "label"])


@pytest.mark.faults
def test_a_bad_quote_costs_one_row_at_most(tmp_path):
    """Every kind of bad row, with a good one behind it and a last one whose cell has a line break."""
    lines = ["text,label", '"never closed,1', '"so," he said.,2', '"a" b,"c', "x" * 200_000 + ",1", 'b,"0\n1"', "c,3"]
    rows = read_table(write(tmp_path, "x.csv", "\n".join(lines) + "\n")).rows
    bad = [(row.where, row.reason) for row in rows if isinstance(row, BadRow)]
    assert bad == [("line 2", "quote not closed"), ("line 4", "quote not closed"), ("line 5", "cell too long")]
    good = [(row.where, *row.cells.values()) for row in rows if not isinstance(row, BadRow)]
    assert good == [("line 3", "so, he said.", "2"), ("line 6", "b", "0\n1"), ("line 8", "c", "3")]


@pytest.mark.faults
def test_empathetic_dialogues_quotes_nothing(tmp_path):
    header = "conv_id,utterance_idx,context,utterance\n"
    text = header + 'c,1,sad,"Oh_comma_ no\nc,2,sad,I said "no"\nc,3,sad,"stop",other_pipe_replies\nc,4\n'
    *rows, bad = read_table(write(tmp_path, "x.csv", text)).rows
    assert [row.cells["utterance"] for row in rows] == ['"Oh_comma_ no', 'I said "no"', '"stop"']
    assert (bad.where, bad.reason) == ("line 5", "wrong number of cells")
    quoted = write(tmp_path, "y.csv", header + 'c,1,sad,"Oh, no"\n')  # written by another program
    assert read_table(quoted).rows[0].cells["utterance"] == "Oh, no"


@pytest.mark.faults
def test_parquet_keeps_values_or_makes_them_text(tmp_path):
    path = tmp_path / "x.parquet"
    Dataset.from_dict({"text": ["a", None], "turns": [["b"], []]}).to_parquet(path)
    assert [row.cells for row in read_table(path, nested=True).rows] == [
        {"text": "a", "turns": ["b"]},
        {"text": None, "turns": []},
    ]
    table = read_table(path, ["text"])
    assert table.rows[1].cells == {"text": "", "turns": "[]"} and table.rows[1].where == "row 2"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as parquet"):
        read_table(path)


@pytest.mark.faults
def test_what_pandas_misses_is_an_empty_cell_and_words_stay_words(tmp_path):
    rows = '{"text": NaN, "label": "null"}\n{"text": "N/A", "label": NaN}'
    table = read_table(write(tmp_path, "x.jsonl", rows), ["text", "label"])
    assert [row.cells for row in table.rows] == [{"text": "", "label": "null"}, {"text": "N/A", "label": ""}]
    nan = as_table("x", Dataset.from_dict({"level": [float("nan"), 1.5]}))
    assert [row.cells["level"] for row in nan.rows] == ["", "1.5"]


def test_bad_lines_are_bad_rows_named_by_line(tmp_path):
    lines = ['{"text": "a"}', '{"text": ', "[1, 2]", "[" * 100_000, '{"text": "b"}']
    table = read_table(write(tmp_path, "x.jsonl", "\n".join(lines)), ["text"])
    bad = [(row.where, row.reason) for row in table.rows if isinstance(row, BadRow)]
    assert bad == [("line 2", "not JSON"), ("line 3", "not a JSON object"), ("line 4", "not JSON")]
    assert table.rows[4].where == "line 5"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "a", r"x\.txt: unknown kind of file; expected a name that ends in \.csv, \.tsv, \.jsonl, \.json \(also with \.gz\) or \.parquet"),
        ("x.jsonl", " \n", r"x\.jsonl: the file is empty; expected one JSON object per line with the columns text"),
        ("x.jsonl", "text,label\na,1\n", r"no row is a JSON object; line 1: Expecting value.*'text,label'"),
        ("x.json", "[1, 2]", r"no row is a JSON object; row 1: 1"),
        ("x.json", "[]", r"x\.json: the list is empty"),
        ("x.json", '[{"text": "a"},\n{"text"}]', r"x\.json, line 2: not JSON: .*; expected one list of objects"),
        ("x.json", "[" * 100_000, r"x\.json: not JSON: .*recursion"),
        ("x.json", '{\n"text": "a"}', r"no row is a JSON object; line 1"),
        ("x.parquet.gz", b"", "unknown kind of file"),
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


def test_nested_values_are_kept(tmp_path):
    path = write(tmp_path, "x.jsonl", '{"a": [1], "b": {"c": null}}\n{"a": null}\n3\n')
    table = read_table(path, nested=True)
    assert [row.cells for row in table.rows[:2]] == [{"a": [1], "b": {"c": None}}, {"a": None, "b": None}]
    assert table.rows[2].reason == "not a JSON object"
    assert read_objects(path)[1].cells == {"a": None}


@pytest.mark.faults
def test_half_a_character_that_json_spells_is_left_out_everywhere(tmp_path):
    rows = r'{"id": "a\ud83d", "turns": [{"\udE00b": "x \uD83D\uDE00 \\ud83d"}]}'
    for name, text in (("x.jsonl", rows), ("x.json", f"[{rows}]")):
        (row,) = read_table(write(tmp_path, name, text), nested=True).rows
        assert row.cells == {"id": "a", "turns": [{"b": "x 😀 \\ud83d"}]}
    assert read_list(write(tmp_path, "y.json", r'["\ud83d"]')) == [""]


@pytest.mark.parametrize("cells", ["a day", "so, a day,1"])
def test_a_row_of_another_width_is_a_bad_row_named_by_its_first_line(tmp_path, cells):
    _, row = read_table(write(tmp_path, "x.csv", f'text,label\n"two\nlines",1\n{cells}\n')).rows
    assert row == BadRow(
        "line 4", "wrong number of cells", f"{cells.count(',') + 1} cells, the header has 2: {cells!r}"
    )

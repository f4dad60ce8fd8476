"""The wassa builder: sources, columns, labels, the two splits."""

import pytest
from datasets import Dataset, DatasetDict, List, Value

from empathy_trl.data import build, read_split, targets
from empathy_trl.errors import DataError, UserError
from tests.data.sections import data_section

HEADER = "conversation_id,turn_id,speaker_id,text,Emotion,EmotionalPolarity,Empathy\n"


def turns(conversations=20, turns_each=5):
    """Return a CSV text; a turn's text names its conversation."""
    rows = [
        f"c{conversation},{turn},s{turn % 2},turn {turn} of c{conversation},{turn % 6},{turn % 3},{turn * 0.5}"
        for conversation in range(conversations)
        for turn in range(turns_each)
    ]
    return HEADER + "\n".join(rows) + "\n"


@pytest.fixture
def one_file(tmp_path):
    (tmp_path / "conversations.csv").write_text(turns(), encoding="utf-8")
    (tmp_path / "README.md").write_text("about it")
    return tmp_path


def section(path, **changes):
    return data_section("wassa", path, **changes)


def parts(path, **changes):
    return {split: read_split(section(path, **changes), split)[0] for split in ("train", "valid", "test")}


def test_columns_and_types(one_file):
    data = build(section(one_file, split_by="row"), "test", "regress")
    assert data.column_names == ["text", "labels", "conversation"]
    assert data.features["labels"] == List(Value("float32"))
    row = data[0]
    turn = int(row["text"].split()[1])
    assert row["labels"] == [turn, turn % 3, turn * 0.5]
    assert row["conversation"] == row["text"].split()[-1]


def test_rows_keep_turn_and_speaker(one_file):
    row = read_split(section(one_file, split_by="row"), "test")[0][0]
    assert set(row) == {"text", "labels", "conversation", "turn", "speaker", "number"}
    assert row["speaker"] == f"s{int(row['turn']) % 2}"
    assert row["number"] == 5 * int(row["conversation"].removeprefix("c")) + int(row["turn"])


# 20 conversations of 5 turns
@pytest.mark.parametrize(("split_by", "sizes"), [("row", [81, 9, 10]), ("conversation", [80, 10, 10])])
def test_one_table_is_split_in_81_9_10(one_file, split_by, sizes):
    found = parts(one_file, split_by=split_by)
    assert [len(rows) for rows in found.values()] == sizes
    texts = [row["text"] for rows in found.values() for row in rows]
    assert len(set(texts)) == 100


@pytest.mark.parametrize(("split_by", "shared"), [("row", True), ("conversation", False)])
def test_only_a_split_by_conversation_keeps_conversations_apart(one_file, split_by, shared):
    found = parts(one_file, split_by=split_by)
    ids = {split: {row["conversation"] for row in rows} for split, rows in found.items()}
    assert bool(ids["train"] & ids["test"]) == shared


def test_a_file_alone_and_the_report(one_file):
    path = one_file / "conversations.csv"
    _, report = read_split(section(path, split_by="conversation"), "test")
    assert str(report) == (f"{path} (test of a 90/10 split by conversation): 10 read, 0 dropped, 10 used, 0 shortened")


def test_a_folder_of_three_files_is_used_as_it_is(tmp_path):
    for number, name in enumerate(["train.tsv", "validation.jsonl", "test.csv"]):
        row = {"response": f"text {number}", "Emotion": 1.5, "EmotionalPolarity": 0, "Empathy": 5}
        if name.endswith(".jsonl"):
            content = str(row).replace("'", '"')
        else:
            separator = "\t" if name.endswith(".tsv") else ","
            content = separator.join(row) + "\n" + separator.join(map(str, row.values()))
        (tmp_path / name).write_text(content)
    found = parts(tmp_path)
    assert [rows[0]["text"] for rows in found.values()] == ["text 0", "text 1", "text 2"]
    assert all(rows[0]["labels"] == [1.5, 0, 5] and rows[0]["conversation"] is None for rows in found.values())
    with pytest.raises(DataError, match=r"'row' splits a single table, but .* holds 3 .*data\.split_by: given"):
        read_split(section(tmp_path, split_by="row"), "train")


@pytest.mark.parametrize("name", ["", "conversations.csv"])
def test_one_table_needs_a_way_to_split_it(one_file, name):
    with pytest.raises(DataError, match=r"data\.split_by: row or conversation"):
        read_split(section(one_file / name), "train")


def test_a_split_by_conversation_needs_its_column(tmp_path):
    (tmp_path / "turns.csv").write_text("text,Emotion,EmotionalPolarity,Empathy\na,1,1,1\n")
    message = (
        r"no column is called conversation_id or conv_id \(columns found: text, Emotion, .*\); "
        r"split with data\.split_by: row, or leave this stage out"
    )
    with pytest.raises(DataError, match=message):
        read_split(section(tmp_path, split_by="conversation"), "train")


def test_too_few_rows_name_the_source(tmp_path):
    (tmp_path / "turns.csv").write_text("text,Emotion,EmotionalPolarity,Empathy\na,1,1,1\n")
    with pytest.raises(DataError, match=r"turns\.csv: 1 rows in 1 groups are too few"):
        read_split(section(tmp_path, split_by="row"), "train")


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("c,,1,1,1", "empty text", "nothing is left of '' after normalisation"),
        ("c,\u200b\u200d,1,1,1", "empty text", r"'\\u200b\\u200d' after normalisation"),
        ("c,a,,1,1", "missing label", "Emotion is empty; expected a number from 0 to 5"),
        ("c,a,1,high,1", "label is no number", "EmotionalPolarity is 'high'; expected a number from 0 to 2"),
        ("c,a,1,1,nan", "label is no number", "Empathy is 'nan'"),
        ("c,a,1,1,inf", "label is no number", "Empathy is 'inf'"),
        ("c,a,1,2.5,1", "label out of range", r"EmotionalPolarity is '2\.5'; expected a number from 0 to 2"),
        ("c,a,-0.1,1,1", "label out of range", r"Emotion is '-0\.1'"),
        ("c,a,1,1", "wrong number of cells", "4 cells, the header has 5"),
    ],
)
def test_bad_rows(tmp_path, row, reason, detail):
    content = f"conv_id,text,Emotion,EmotionalPolarity,Empathy\nc,ok,1,1,1\n{row}\n"
    (tmp_path / "train.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=rf"1 of 2 rows cannot be used \(1 {reason}\)\n  line 3: {reason}: .*{detail}"):
        read_split(section(tmp_path), "train")
    rows, report = read_split(section(tmp_path, on_bad_rows="drop"), "train")
    assert len(rows) == 1
    assert report.dropped == {reason: 1}


def test_an_empty_conversation_is_a_bad_row_of_a_split_by_conversation(tmp_path):
    (tmp_path / "turns.csv").write_text(turns() + ",0,s0,no home,1,1,1\n")
    dropped = [
        read_split(section(tmp_path, split_by="conversation", on_bad_rows="drop"), split)[1].dropped
        for split in ("train", "valid", "test")
    ]
    assert sorted(map(str, dropped)) == ["{'no conversation': 1}", "{}", "{}"]
    rows = [row for part in parts(tmp_path, split_by="row").values() for row in part]
    assert [row["conversation"] for row in rows if row["text"] == "no home"] == [None]


def test_ranges_name_the_dimensions(tmp_path):
    (tmp_path / "train.csv").write_text("text,Distress,Empathy\na,6.5,1\n")
    config = section(tmp_path, ranges={"Distress": (1.0, 7.0)})
    assert targets(config) == {"Distress": (1.0, 7.0)}
    assert read_split(config, "train")[0][0]["labels"] == [6.5]
    with pytest.raises(DataError, match="no column 'Emotion'"):
        read_split(section(tmp_path), "train")


def test_default_targets():
    assert targets(section("sample")) == {"Emotion": (0, 5), "EmotionalPolarity": (0, 2), "Empathy": (0, 5)}


def test_texts_are_normalised_shortened_and_cut_to_the_portion(tmp_path):
    rows = [f'"@ann see  http://a.org #{word}",1,1,1' for word in ("one", "two", "three", "four")]
    (tmp_path / "train.csv").write_text("\n".join(["utterance,Emotion,EmotionalPolarity,Empathy", *rows]))
    assert read_split(section(tmp_path), "train")[0][0]["text"] == "@USER see <url> one"
    plain = section(tmp_path, normalize={"urls": False, "hashtags": False}, portion=(0.5, 1.0), max_words=2)
    found, report = read_split(plain, "train")
    assert [row["text"] for row in found] == ["http://a.org #three", "http://a.org #four"]
    assert report.shortened == 2


def test_the_hub(monkeypatch):
    columns = {"text": ["a"] * 30, "Emotion": [1] * 30, "EmotionalPolarity": [0.5] * 30, "Empathy": [2.0] * 30}
    splits = DatasetDict({"train": Dataset.from_dict(columns)})
    monkeypatch.setattr("datasets.load_dataset", lambda name, revision: splits)
    rows, report = read_split(section("ann/turns", revision="v1", split_by="row"), "test")
    assert len(rows) == 3 and rows[0]["labels"] == [1.0, 0.5, 2.0]
    assert report.source == "ann/turns (revision v1, split train) (test of a 90/10 split by row)"
    assert len(read_split(section("ann/turns"), "train")[0]) == 30
    with pytest.raises(DataError, match=r"split test\): no such split \(splits found: train\)"):
        read_split(section("ann/turns"), "test")


def test_unknown_names():
    with pytest.raises(UserError, match=r"wassa data has no columns for task 'dpo'.*regress"):
        build(section("sample"), "train", "dpo")
    with pytest.raises(UserError, match="unknown split 'dev'"):
        read_split(section("sample"), "dev")
    with pytest.raises(
        DataError, match=r"no folder 'nowhere' here; expected 'sample'.*a table, a folder with one table"
    ):
        read_split(section("nowhere"), "train")

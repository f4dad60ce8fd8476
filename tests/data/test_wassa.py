"""Wassa: sources, columns, labels, the two splits; who answers whom, and a warm start that writes the asked format."""

import itertools

import pytest
from datasets import Dataset, DatasetDict, List, Value

from empathy_trl.data import build, read_split, targets
from empathy_trl.data.wassa import SYSTEM, answered_turns, make_completion, reply_columns, text_column
from empathy_trl.errors import DataError
from empathy_trl.recipe import Data
from empathy_trl.rewards.format import Format
from empathy_trl.tags import reply_text, user_text

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
    return Data(name="wassa", path=str(path), **changes)


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
    assert targets(section("sample")) == {"Emotion": (0, 5), "EmotionalPolarity": (0, 2), "Empathy": (0, 5)}
    assert read_split(config, "train")[0][0]["labels"] == [6.5]
    with pytest.raises(DataError, match="no column 'Emotion'"):
        read_split(section(tmp_path), "train")


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
    with pytest.raises(DataError, match=r"ann/turns .* has no table called test \(found: train\)"):
        read_split(section("ann/turns"), "test")


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (["id", "text", "Empathy"], None, "text"),
        (["utterance", "speaker"], None, "utterance"),
        (["Response"], None, "Response"),
        (["text", "essay"], "essay", "essay"),
        (["body", "text"], "body", "body"),
    ],
)
def test_the_text_column_is_found(found, wanted, expected):
    assert text_column("x.csv", found, wanted) == expected


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (["text", "id", "essay"], None, r"x\.csv: 2 columns may hold the text: 'text', 'essay'; .* data\.text_column"),
        (["body", "id"], None, r"no column is called text, utterance, .*data\.text_column \(columns found: body, id"),
        ([], None, r"no column is called text"),
        (["text", "boddy"], "body", r"no column 'body'; did you mean boddy\? \(columns found: text, boddy\)"),
    ],
)
def test_a_text_column_is_not_guessed(found, wanted, message):
    with pytest.raises(DataError, match=message):
        text_column("x.csv", found, wanted)


# Turns as prompts


def row(text, conversation, speaker, turn=None, number=0):
    return {"text": text, "conversation": conversation, "speaker": speaker, "labels": [3.0, 1.6, 4.0], "turn": turn,
            "number": number}  # fmt: skip


def texts(rows):
    return [(turn["text"], reply["text"]) for turn, reply in answered_turns(rows)]


@pytest.mark.faults
@pytest.mark.parametrize(
    "rows, expected, why",
    [
        ([("a", "1", "x"), ("b", "1", "y"), ("c", "1", "x")], [("a", "b"), ("b", "c")], "every turn but the last is answered"),
        ([("a", "1", "x"), ("b", "1", "x"), ("c", "1", "y")], [("b", "c")], "nobody answers themselves"),
        ([("a", "1", "x"), ("b", "2", "y")], [], "another conversation is no answer"),
        ([("a", "1", None), ("b", "1", None)], [("a", "b")], "without speakers the next turn counts"),
        ([("a", None, "x"), ("b", None, "y")], [], "without conversations nothing is known"),
        ([("a", "1", "x", "4"), ("b", "1", "y", "5")], [("a", "b")], "ids in sequence"),
        ([("a", "1", "x", "4"), ("b", "1", "y", "4")], [("a", "b")], "ids that count exchanges"),
        ([("a", "1", "x", "4"), ("b", "1", "y", "7")], [], "the source lacks turns 5 and 6"),
        ([("a", "1", "x", "4.0"), ("b", "1", "y", "7.0")], [], "the same as pandas writes it beside an empty cell"),
        ([("a", "1", "x", "4"), ("b", "1", "y", "3")], [], "an earlier turn is no answer"),
        ([("a", "1", "x", "t4"), ("b", "1", "y", "t9")], [("a", "b")], "ids that are no numbers tell nothing"),
    ],
)  # fmt: skip
def test_who_answers_whom(rows, expected, why):
    assert texts([row(*cells, number=number) for number, cells in enumerate(rows)]) == expected, why


def neighbours(content):
    """All (turn, next turn) of a CSV of turns, by their texts."""
    lines = [line.split(",") for line in content.splitlines()[1:]]
    return {(a[2], b[2]) for a, b in itertools.pairwise(lines) if a[0] == b[0]}


@pytest.mark.parametrize("header", ["conversation_id,speaker,text", "conversation_id,turn_id,text"])
def test_a_turn_whose_answer_is_in_another_split_or_was_dropped_has_none(tmp_path, header):
    lines = [f"{i // 10},{i % 10 % 2 if 'speaker' in header else i % 10},turn {i}" for i in range(200)]
    lines[33] = lines[33].rpartition(",")[0] + ","  # no text
    content = "\n".join([header + ",Emotion", *(f"{line},1" for line in lines)])
    (tmp_path / "turns.csv").write_text(content)
    for split_by in ("row", "conversation"):
        config = Data(
            name="wassa", path=str(tmp_path), split_by=split_by, ranges={"Emotion": (0, 5)}, on_bad_rows="drop"
        )
        rows = [row for split in ("train", "valid", "test") for row in build(config, split, "grpo")]
        pairs = {(row["text"], row["reference"]) for row in rows}
        assert pairs and pairs <= neighbours(content)


def test_turns_that_nobody_answers_are_an_error_that_says_what_is_needed():
    with pytest.raises(
        DataError, match=r"turns\.csv: no turn is answered by the next one; .* a column conversation_id"
    ):
        reply_columns([row("a", None, None)], "turns.csv", ["Emotion"], with_completion=False)


@pytest.mark.parametrize(
    "aim, approach",
    [(5, "show that I understand"), (3, "show that I understand"), (2, "acknowledge it"), (0, "keep it short")],
)
def test_a_warm_start_is_written_as_asked(aim, approach):
    ratings = {"Emotion": 2.67, "EmotionalPolarity": 1.67, "Empathy": 1.0}
    completion = make_completion("I am sorry.", ratings, {"Empathy": aim})
    assert completion[0]["role"] == "assistant"
    assert Format(tags=["reasoning", "answer"])(None, [completion]) == [1.0]
    assert reply_text(completion) == "I am sorry."
    assert f"content: negative; intensity: 3; approach: {approach}<" in completion[0]["content"]


def test_columns_of_the_sample():
    config = Data(name="wassa", split_by="conversation")
    rated, prompts, warm = (build(config, "test", task) for task in ("regress", "grpo", "sft"))
    assert prompts.column_names == ["prompt", "text", "reference", "conversation"]
    assert warm.column_names == [*prompts.column_names, "completion"]
    assert len(prompts) == len(rated) - len(set(rated["conversation"]))  # all but each conversation's last turn
    for row in prompts:
        assert row["prompt"][0] == {"role": "system", "content": SYSTEM} and user_text(row["prompt"]) == row["text"]
    assert set(Format(tags=["reasoning", "answer"])(None, warm["completion"])) == {1.0}


def test_other_ratings_have_no_warm_start(tmp_path):
    (tmp_path / "turns.csv").write_text(
        "conversation_id,speaker,text,Warmth\n" + "".join(f"{i // 4},{i % 2},turn {i},{i % 3}\n" for i in range(80))
    )
    config = Data(name="wassa", path=str(tmp_path), split_by="conversation", ranges={"Warmth": (0, 2)})
    assert len(build(config, "train", "grpo")) > 20
    with pytest.raises(
        DataError, match="a warm start needs the ratings Emotion, EmotionalPolarity, Empathy; found Warmth"
    ):
        build(config, "train", "sft")

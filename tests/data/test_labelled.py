"""The builders emotions and intents: label sets, skipped rows, every kind of source."""

import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, List, Value

from empathy_trl.data import build, read_split, targets
from empathy_trl.data.labelled import EMOTIONS, INTENTS
from empathy_trl.errors import DataError, UserError
from tests.data.sections import data_section

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
ROWS = [
    {"text": "my dog &amp; I ", "label": "caring", "label_id": 7},
    {"text": "good luck!", "label": "wishing", "label_id": 39},
    {"text": "he left", "label": "Sad"},
    {"text": "where?", "label": "questioning"},
]


def write(folder, rows, name="train.jsonl"):
    content = "\n".join(map(json.dumps, rows)).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def test_label_sets():
    assert (len(EMOTIONS), len(INTENTS)) == (32, 9)
    assert not set(EMOTIONS) & set(INTENTS)
    assert targets(data_section("emotions", "sample")) == {"emotion": EMOTIONS}
    assert targets(data_section("intents", "sample")) == {"intent": INTENTS}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("emotions", [("my dog & I", "caring"), ("he left", "sad")]),
        ("intents", [("good luck!", "wishing"), ("where?", "questioning")]),
    ],
)
def test_rows_of_the_other_set_are_skipped_and_counted(tmp_path, name, expected):
    config = data_section(name, write(tmp_path, ROWS))
    ((_, names),) = targets(config).items()
    data = build(config, "train", "classify")
    assert data.features["labels"] == List(Value("int64"))
    assert [(row["text"], names[row["labels"][0]]) for row in data] == expected
    assert str(read_split(config, "train")[1]).endswith("4 read, 0 dropped, 2 skipped, 2 used, 0 shortened")


def test_conversations_give_their_situation(tmp_path):
    rows = [{"conv_id": "c1", "emotion": "proud", "situation": "i won", "utterances": [{"text": "hi"}]}]
    config = data_section("emotions", write(tmp_path, rows, "test.jsonl.gz"))
    assert read_split(config, "test")[0] == [{"text": "i won", "labels": [EMOTIONS.index("proud")]}]


UTTERANCES = {
    "conv_id": ["c1", "c1", "c2", "c3"],
    "context": ["sad", "sad", "proud", "afraid"],
    "prompt": ["rain_comma_ again", "rain_comma_ again", "a medal", "dark"],
}


def test_the_hub(monkeypatch):
    splits = DatasetDict(
        {"validation": Dataset.from_dict(UTTERANCES), "test": Dataset.from_dict({"text": ["ok"], "label": ["neutral"]})}
    )
    monkeypatch.setattr("datasets.load_dataset", lambda name, revision: splits)
    rows, report = read_split(data_section("emotions", "facebook/empathetic_dialogues"), "valid")
    assert [(row["text"], EMOTIONS[row["labels"][0]]) for row in rows] == [
        ("rain, again", "sad"),
        ("a medal", "proud"),
        ("dark", "afraid"),
    ]
    assert report.source == "facebook/empathetic_dialogues (revision refs/convert/parquet, split validation)"
    assert read_split(data_section("intents", "ann/intents"), "test")[0] == [{"text": "ok", "labels": [8]}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "label": "hapy"}, r"line 2: unknown label: 'hapy' \(choices: afraid, "),
        ({"text": "a", "label": "joyfull"}, r"unknown label: 'joyfull'; did you mean joyful\?"),
        ({"text": "a"}, "line 2: unknown label: ''"),
        ({"text": "<br>", "label": "sad"}, "line 2: empty text: nothing is left of '<br>' after cleaning"),
    ],
)
def test_bad_rows(tmp_path, row, message):
    write(tmp_path, [{"text": "b", "label": "sad"}, row])
    with pytest.raises(DataError, match=message):
        read_split(data_section("emotions", tmp_path), "train")
    assert len(read_split(data_section("emotions", tmp_path, on_bad_rows="drop"), "train")[0]) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "b", "label": "sad"}], r"no row is left of 1; 1 are for another task"),
        ([{"text": "b", "tag": "sad"}], r"no column 'label' \(columns found: text, tag\)"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_split(data_section("intents", write(tmp_path, rows)), "train")


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match=r"the intents data has no columns for task 'sft' \(choices: classify\)"):
        build(data_section("intents", "sample"), "train", "sft")
    with pytest.raises(DataError, match=r"has no valid\.csv or .* \(files found: none\)"):
        read_split(data_section("intents", tmp_path), "valid")
    with pytest.raises(UserError, match="the ed4 data has no labels to predict"):
        targets(data_section("ed4", "sample"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not here")
def test_the_real_files():
    def sizes(name, folder):
        return [read_split(data_section(name, REAL / folder), split)[1].used for split in ("train", "valid", "test")]

    assert sizes("intents", "empathetic_intents") == [5490, 774, 702]
    assert sizes("emotions", "empathetic_intents") == [19533, 2770, 2523]
    assert sizes("emotions", "empathetic_dialogues") == [19543, 2767, 2546]

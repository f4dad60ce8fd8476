"""Emotions, intents and EPITOME: label sets, skipped rows, joined files, the split by seeker post, every kind of source."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, List, Value

from empathy_trl.data import build, read_split, targets
from empathy_trl.data.labelled import EMOTIONS, INTENTS, MECHANISMS
from empathy_trl.errors import DataError
from empathy_trl.recipe import Data

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
ROWS = [
    {"text": "my dog &amp; I ", "label": "caring", "label_id": 7},
    {"text": "good luck!", "label": "wishing", "label_id": 39},
    {"text": "he left", "label": "Sad"},
    {"text": "where?", "label": "questioning"},
]


def section(name, path, **changes):
    return Data(name=name, path=str(path), **changes)


def write(folder, rows, name="train.jsonl"):
    content = "\n".join(map(json.dumps, rows)).encode()
    (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return folder


def test_label_sets():
    assert (len(EMOTIONS), len(INTENTS)) == (32, 9)
    assert not set(EMOTIONS) & set(INTENTS)
    assert targets(section("emotions", "sample")) == {"emotion": EMOTIONS}
    assert targets(section("intents", "sample")) == {"intent": INTENTS}
    assert targets(section("epitome", "sample")) == dict.fromkeys(MECHANISMS, ("0", "1", "2"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("emotions", [("my dog & I", "caring"), ("he left", "sad")]),
        ("intents", [("good luck!", "wishing"), ("where?", "questioning")]),
    ],
)
def test_rows_of_the_other_set_are_skipped_and_counted(tmp_path, name, expected):
    config = section(name, write(tmp_path, ROWS))
    ((_, names),) = targets(config).items()
    data = build(config, "train", "classify")
    assert data.features["labels"] == List(Value("int64"))
    assert [(row["text"], names[row["labels"][0]]) for row in data] == expected
    assert str(read_split(config, "train")[1]).endswith("4 read, 0 dropped, 2 skipped, 2 used, 0 shortened")


def test_conversations_give_their_situation(tmp_path):
    rows = [{"conv_id": "c1", "emotion": "proud", "situation": "i won", "utterances": [{"text": "hi"}]}]
    config = section("emotions", write(tmp_path, rows, "test.jsonl.gz"))
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
    rows, report = read_split(section("emotions", "facebook/empathetic_dialogues"), "valid")
    assert [(row["text"], EMOTIONS[row["labels"][0]]) for row in rows] == [
        ("rain, again", "sad"),
        ("a medal", "proud"),
        ("dark", "afraid"),
    ]
    assert report.source == "facebook/empathetic_dialogues (revision refs/convert/parquet, split validation)"
    assert read_split(section("intents", "ann/intents"), "test")[0] == [{"text": "ok", "labels": [8]}]


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
        read_split(section("emotions", tmp_path), "train")
    assert len(read_split(section("emotions", tmp_path, on_bad_rows="drop"), "train")[0]) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "b", "label": "sad"}], r"no row is left of 1; 1 are for another task"),
        ([{"text": "b", "tag": "sad"}], r"no column 'label' \(columns found: text, tag\)"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_split(section("intents", write(tmp_path, rows)), "train")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.csv.gz"])
def test_situations_of_empathetic_dialogues_from_a_folder(tmp_path, name):
    """One row per conversation, of its own CSV, where nothing is quoted, or of a table that another program wrote."""
    rows = [["conv_id", "utterance_idx", "context", "prompt", "utterance"]]
    rows += [["c1", "1", "sad", "rain_comma_ again", '"no'], ["c1", "2", "sad", "rain_comma_ again", "b"], ["c2", "1"]]
    text = "".join(("\t" if name == "train.tsv" else ",").join(row) + "\n" for row in rows)
    if name == "train.tsv":
        text = text.replace('"no', "no")
    (tmp_path / name).write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith("gz") else text.encode())
    for corpus in ("emotions", "ed4"):
        found, report = read_split(section(corpus, tmp_path, on_bad_rows="drop"), "train")
        assert [row["text"] for row in found] == ["rain, again"]
        assert report.dropped == {"wrong number of cells": 1}


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not here")
def test_the_real_files():
    def sizes(name, folder):
        return [read_split(section(name, REAL / folder), split)[1].used for split in ("train", "valid", "test")]

    assert sizes("intents", "empathetic_intents") == [5490, 774, 702]
    assert sizes("emotions", "empathetic_intents") == [19533, 2770, 2523]
    assert sizes("emotions", "empathetic_dialogues") == [19543, 2767, 2546]


# EPITOME

SPLITS = ("train", "valid", "test")
FILES = [f"{mechanism.replace('_', '-')}-reddit.csv" for mechanism in MECHANISMS]


def epitome(path, **changes):
    return section("epitome", path, **changes)


def pair(seeker, response, levels):
    posts = {"seeker_post": f"seeker {seeker}", "response_post": f"response {seeker}.{response}"}
    return posts | dict(zip(MECHANISMS, levels, strict=True))


def write_jsonl(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))


def write_published(folder, change=lambda name, rows: rows):
    """Write the three CSVs of 20 seekers with 3 responses each; the levels of a pair are r, s % 3 and (r + s) % 3."""
    for name, level in zip(FILES, (lambda s, r: r, lambda s, r: s % 3, lambda s, r: (r + s) % 3), strict=True):
        rows = [
            [f"s{s}", f"r{r}", f"seeker {s}, here", f"response {s}.{r}", level(s, r), "|"]
            for s in range(20)
            for r in range(3)
        ]
        with (folder / name).open("w", newline="") as file:
            header = ["sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales"]
            csv.writer(file).writerows([header, *change(name, rows)])
    return folder


def test_the_published_files_are_joined(tmp_path):
    data = [row for split in SPLITS for row in build(epitome(write_published(tmp_path)), split, "classify")]
    assert len(data) == 60
    for row in data:
        s, r = map(int, row["pair"].removeprefix("response ").split("."))
        assert row == {"text": f"seeker {s}, here", "pair": f"response {s}.{r}", "labels": [r, s % 3, (r + s) % 3]}


def test_a_seeker_post_is_in_one_part_only(tmp_path):
    parts = {split: read_split(epitome(write_published(tmp_path)), split) for split in SPLITS}
    seekers = [{row["text"] for row in rows} for rows, _ in parts.values()]
    assert [len(part) for part in seekers] == [16, 2, 2]
    assert len(set.union(*seekers)) == 20
    assert parts["test"][1].source == f"{tmp_path} (test of a 90/10 split by seeker post)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, rows: rows[:-1] if name == FILES[2] else rows, rf"{FILES[0]}, line 61: pair without a level: sp_id s19, rp_id r2 is missing in {FILES[2]}"),
        (lambda name, rows: [*rows, rows[0]] if name == FILES[1] else rows, rf"{FILES[1]}, line 62: pair without a level: row 2 of sp_id s0, rp_id r0 is missing in {FILES[0]} and {FILES[2]}"),
        (lambda name, rows: [*rows, ["s0"]] if name == FILES[1] else rows, rf"{FILES[1]}, line 62: wrong number of cells"),
    ],
)  # fmt: skip
def test_pairs_that_do_not_join(tmp_path, change, message):
    write_published(tmp_path, change)
    errors = []
    for split in SPLITS:
        try:
            read_split(epitome(tmp_path), split)
        except DataError as error:
            errors.append(str(error))
    assert len(errors) == 1
    with pytest.raises(DataError, match=message):
        raise DataError(errors[0])


@pytest.mark.faults
def test_repeated_pairs_are_kept_and_counted_unless_their_levels_differ(tmp_path):
    """The published files have both: pair (s0, r0) twice alike, (s0, r1) twice with other explorations, all of one seeker."""

    def repeat(name, rows):
        other = [*rows[1][:4], 2, "|"] if name == FILES[2] else rows[1]
        return [*rows, rows[0], other]

    config = epitome(write_published(tmp_path, repeat), on_bad_rows="drop")
    reports = [read_split(config, split)[1] for split in SPLITS]
    assert sum(report.read for report in reports) == 62 and sum(report.used for report in reports) == 60
    (counted,) = [report for report in reports if report.notes]
    assert counted.dropped == {"different levels of one pair": 2} and counted.notes == {"repeated (kept)": 1}
    assert str(counted).endswith("; 1 repeated (kept)")
    with pytest.raises(DataError, match=rf"are 1, 0, 1 in {FILES[0]}, line 3; 1, 0, 2 in {FILES[0]}, line 63"):
        for split in SPLITS:
            read_split(epitome(tmp_path), split)
    one = tmp_path / "pairs.jsonl"
    write_jsonl(one, [pair(s, 0, (0, 1, 2)) for s in range(20)] + [pair(0, 0, (1, 1, 2))])
    with pytest.raises(DataError, match=r"different levels of one pair: .* are 0, 1, 2 in line 1; 1, 1, 2 in line 21"):
        for split in SPLITS:
            read_split(epitome(one), split)


def test_a_missing_published_file(tmp_path):
    (write_published(tmp_path) / FILES[1]).unlink()
    with pytest.raises(DataError, match=rf"{FILES[1]}: cannot be read: No such file"):
        read_split(epitome(tmp_path), "train")


def test_a_folder_with_its_own_splits(tmp_path):
    for number, split in enumerate(SPLITS):
        write_jsonl(tmp_path / f"{split}.jsonl", [pair(number, 0, (0, 1, 2))])
    data = build(epitome(tmp_path), "valid", "classify")
    assert data[0] == {"text": "seeker 1", "pair": "response 1.0", "labels": [0, 1, 2]}
    assert data.features["labels"] == List(Value("int64"))


def test_one_table_is_split_by_seeker_post(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", [pair(s, r, (0, 1, 2)) for s in range(20) for r in range(3)])
    texts = [{row["text"] for row in read_split(epitome(tmp_path / "pairs.jsonl"), split)[0]} for split in SPLITS]
    assert [len(part) for part in texts] == [16, 2, 2]
    assert len(set.union(*texts)) == 20


def test_pairs_on_the_hub(monkeypatch):
    splits = DatasetDict({"train": Dataset.from_list([pair(0, 0, (2, 1, 0))])})
    monkeypatch.setattr("datasets.load_dataset", lambda name, revision: splits)
    rows, _ = read_split(epitome("ann/epitome"), "train")
    assert rows == [{"text": "seeker 0", "pair": "response 0.0", "labels": [2, 1, 0]}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"explorations": 3}, "line 2: unknown level: explorations is '3'; expected 0, 1 or 2"),
        ({"interpretations": None}, "line 2: unknown level: interpretations is ''"),
        ({"emotional_reactions": 1.0}, r"emotional_reactions is '1\.0'"),
        ({"response_post": " "}, "line 2: empty text: nothing is left of response_post ' ' after cleaning"),
        ({"seeker_post": "<p>"}, "line 2: empty text: nothing is left of seeker_post '<p>' after cleaning"),
    ],
)
def test_bad_pairs(tmp_path, change, message):
    write_jsonl(tmp_path / "train.jsonl", [pair(0, 0, (0, 0, 0)), pair(0, 1, (0, 0, 0)) | change])
    with pytest.raises(DataError, match=message):
        read_split(epitome(tmp_path), "train")
    assert len(read_split(epitome(tmp_path, on_bad_rows="drop"), "train")[0]) == 1


def test_both_posts_are_shortened(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [pair(0, 0, (0, 0, 0))])
    rows, report = read_split(epitome(tmp_path, max_words=1), "train")
    assert (rows[0]["text"], rows[0]["pair"], report.shortened) == ("0", "0.0", 1)

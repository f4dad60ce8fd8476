"""The epitome builder: published files joined, own tables, levels, the split by seeker post."""

import csv
import json

import pytest
from datasets import Dataset, DatasetDict, List, Value

from empathy_trl.data import build, read_split, targets
from empathy_trl.data.labelled import MECHANISMS
from empathy_trl.errors import DataError, UserError
from tests.data.sections import data_section

SPLITS = ("train", "valid", "test")
FILES = [f"{mechanism.replace('_', '-')}-reddit.csv" for mechanism in MECHANISMS]


def section(path, **changes):
    return data_section("epitome", path, **changes)


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


def test_targets():
    assert targets(section("sample")) == dict.fromkeys(MECHANISMS, ("0", "1", "2"))


def test_the_published_files_are_joined(tmp_path):
    data = [row for split in SPLITS for row in build(section(write_published(tmp_path)), split, "classify")]
    assert len(data) == 60
    for row in data:
        s, r = map(int, row["pair"].removeprefix("response ").split("."))
        assert row == {"text": f"seeker {s}, here", "pair": f"response {s}.{r}", "labels": [r, s % 3, (r + s) % 3]}


def test_a_seeker_post_is_in_one_part_only(tmp_path):
    parts = {split: read_split(section(write_published(tmp_path)), split) for split in SPLITS}
    seekers = [{row["text"] for row in rows} for rows, _ in parts.values()]
    assert [len(part) for part in seekers] == [16, 2, 2]
    assert len(set.union(*seekers)) == 20
    assert parts["test"][1].source == f"{tmp_path} (test of a 90/10 split by seeker post)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda name, rows: rows[:-1] if name == FILES[2] else rows,
            rf"{FILES[0]}, line 61: pair without a level: sp_id s19, rp_id r2 is not in {FILES[2]}",
        ),
        (
            lambda name, rows: [*rows, rows[0]] if name == FILES[1] else rows,
            rf"{FILES[1]}, line 62: second row of a pair: sp_id s0, rp_id r0",
        ),
        (
            lambda name, rows: [*rows, ["s0"]] if name == FILES[1] else rows,
            rf"{FILES[1]}, line 62: wrong number of cells",
        ),
    ],
)
def test_pairs_that_do_not_join(tmp_path, change, message):
    write_published(tmp_path, change)
    errors = []
    for split in SPLITS:
        try:
            read_split(section(tmp_path), split)
        except DataError as error:
            errors.append(str(error))
    assert len(errors) == 1
    with pytest.raises(DataError, match=message):
        raise DataError(errors[0])


def test_a_missing_published_file(tmp_path):
    (write_published(tmp_path) / FILES[1]).unlink()
    with pytest.raises(DataError, match=rf"{FILES[1]}: cannot be read: No such file"):
        read_split(section(tmp_path), "train")


def test_a_folder_with_its_own_splits(tmp_path):
    for number, split in enumerate(SPLITS):
        write_jsonl(tmp_path / f"{split}.jsonl", [pair(number, 0, (0, 1, 2))])
    data = build(section(tmp_path), "valid", "classify")
    assert data[0] == {"text": "seeker 1", "pair": "response 1.0", "labels": [0, 1, 2]}
    assert data.features["labels"] == List(Value("int64"))


def test_one_table_is_split_by_seeker_post(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", [pair(s, r, (0, 1, 2)) for s in range(20) for r in range(3)])
    texts = [{row["text"] for row in read_split(section(tmp_path / "pairs.jsonl"), split)[0]} for split in SPLITS]
    assert [len(part) for part in texts] == [16, 2, 2]
    assert len(set.union(*texts)) == 20


def test_the_hub(monkeypatch):
    splits = DatasetDict({"train": Dataset.from_list([pair(0, 0, (2, 1, 0))])})
    monkeypatch.setattr("datasets.load_dataset", lambda name, revision: splits)
    rows, _ = read_split(section("ann/epitome"), "train")
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
def test_bad_rows(tmp_path, change, message):
    write_jsonl(tmp_path / "train.jsonl", [pair(0, 0, (0, 0, 0)), pair(0, 1, (0, 0, 0)) | change])
    with pytest.raises(DataError, match=message):
        read_split(section(tmp_path), "train")
    assert len(read_split(section(tmp_path, on_bad_rows="drop"), "train")[0]) == 1


def test_both_posts_are_shortened(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [pair(0, 0, (0, 0, 0))])
    rows, report = read_split(section(tmp_path, max_words=1), "train")
    assert (rows[0]["text"], rows[0]["pair"], report.shortened) == ("0", "0.0", 1)


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match=r"the epitome data has no columns for task 'regress' \(choices: classify\)"):
        build(section("sample"), "train", "regress")
    with pytest.raises(DataError, match=rf"no folder 'nowhere' here.*{FILES[0]}.*seeker_post, response_post"):
        read_split(section("nowhere"), "train")

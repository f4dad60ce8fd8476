"""Finding the table of a split: the same way in a folder of files, in one that `datasets` saved, and on the Hub."""

import json

import pytest
from datasets import Dataset, DatasetDict

from empathy_trl.data.sources import local_path, open_hub, open_source
from empathy_trl.data.tables import NESTED
from empathy_trl.errors import DataError

ROW = {"text": "i won", "label": 1}


def write(folder, *names):
    """Write a table of one row in the format of each name; return the folder."""
    for name in names:
        if name.endswith(".csv"):
            (folder / name).write_text("text,label\ni won,1\n")
        elif name.endswith(".parquet"):
            Dataset.from_list([ROW]).to_parquet(folder / name)
        elif "." in name:
            (folder / name).write_text(json.dumps(ROW))
        else:
            (folder / name).mkdir()
    return folder


@pytest.mark.faults
@pytest.mark.parametrize("place", ["csv", "jsonl", "json", "parquet", "saved", "hub"])
@pytest.mark.parametrize(
    ("split", "name"),
    [
        *(("train", "train"), ("test", "test"), ("train", "train_data")),
        *(("valid", "valid"), ("valid", "validation"), ("valid", "val"), ("valid", "dev")),
    ],
)
def test_a_split_is_found_by_the_same_names_everywhere(tmp_path, monkeypatch, place, split, name):
    splits = DatasetDict({"other": Dataset.from_list([ROW]), name: Dataset.from_list([ROW])})
    if place == "hub":
        monkeypatch.setattr("datasets.load_dataset", lambda name, revision: splits)
        source = open_hub("ann/moods", None)
    elif place == "saved":
        splits.save_to_disk(tmp_path / "saved")
        source = open_source(tmp_path / "saved")
    else:
        source = open_source(write(tmp_path, f"{name}.{place}", f"other.{place}", "more"))
    (row,) = source.split(split).rows
    assert row.cells == {"text": "i won", "label": "1"}


@pytest.mark.faults
def test_two_tables_of_one_split_are_refused(tmp_path):
    write(tmp_path, "train.csv", "train.jsonl", "valid.csv", "dev.json")
    with pytest.raises(DataError, match=r"has 2 tables for the split train: train\.csv, train\.jsonl; keep one"):
        open_source(tmp_path).split("train")
    with pytest.raises(DataError, match=r"split valid: dev\.json, valid\.csv; keep one"):
        open_source(tmp_path).split("valid")
    assert len(open_source(tmp_path, NESTED).split("train").rows) == 1


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(
        DataError, match=r"has no table called train \(\.csv, \.tsv, \.jsonl, \.json, \.parquet; found: none\)"
    ):
        open_source(tmp_path).split("train")
    write(tmp_path, "train.csv")
    with pytest.raises(
        DataError, match=r"called valid or validation or val or dev \(\.csv, .*; found: train\.csv\); look"
    ):
        open_source(tmp_path).split("valid", "; look")
    with pytest.raises(DataError, match=r"called train \(\.jsonl, \.json, \.parquet; found: train\.csv\)"):
        open_source(tmp_path, NESTED, nested=True).split("train")
    with pytest.raises(DataError, match=r"train\.csv is one table without splits; give the folder that holds"):
        open_source(tmp_path / "train.csv").split("train")


@pytest.mark.faults
def test_the_files_of_a_table_from_the_hub_are_read_together_or_not_at_all(tmp_path):
    names = [f"train-{number:05d}-of-00002.parquet" for number in range(2)]
    write(tmp_path, *names)
    table = open_source(tmp_path).split("train")
    assert [row.where for row in table.rows] == [f"{name}, row 1" for name in names]
    assert table.source == f"{tmp_path}/train-*.parquet"
    (tmp_path / names[0]).unlink()
    with pytest.raises(DataError, match=f"has 1 of 2 files: {names[1]}"):
        open_source(tmp_path).split("train")


@pytest.mark.faults
def test_the_only_table(tmp_path):
    """A JSON file that describes the table is none; a data set without splits is one; a broken one has a message."""
    assert open_source(write(tmp_path, "rows.csv", "about.json", "._rows.csv")).only().source == str(
        tmp_path / "rows.csv"
    )
    assert open_source(write(tmp_path, "train.json")).only() is None
    saved = tmp_path / "saved"
    Dataset.from_list([{"turns": ["a", "b"]}]).save_to_disk(saved)
    assert open_source(saved, nested=True).only().rows[0].cells == {"turns": ["a", "b"]}
    with pytest.raises(DataError, match="saved is one table without splits"):
        open_source(saved).split("train")
    (saved / "data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(DataError, match="saved: cannot be read as a saved data set"):
        open_source(saved).only()


@pytest.mark.parametrize("path", ["smaple", "/no/such/folder", "./no/such", "~/no-such-folder-here", "a/b/c"])
def test_a_place_that_does_not_exist_names_the_choices(path):
    with pytest.raises(DataError, match=rf"no folder '{path}' here; expected 'sample' .*, a table or a Hub id"):
        local_path(path, "sample", "a table or a Hub id")

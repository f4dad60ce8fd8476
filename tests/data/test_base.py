"""What every corpus declares, and how a corpus is found by its name or its builder."""

import logging
import re

import pytest

from empathy_trl.data import CORPORA, build, corpus, read_split
from empathy_trl.data.base import BadRow, Corpus
from empathy_trl.data.sources import Source
from empathy_trl.errors import DataError, UserError
from empathy_trl.evaluation import EVALUATORS
from empathy_trl.io import on_hub
from empathy_trl.recipe import Data

MODULE = """
from empathy_trl.data.base import Corpus

class Notes(Corpus):
    tasks = ("classify",)
    def parse(self, row, config):
        return {"text": row.cells["text"]}

class Half(Corpus):
    tasks = ("sft",)

NOTE = "a note"
"""


@pytest.fixture
def users_corpora(tmp_path, monkeypatch):
    tmp_path.joinpath("users_corpora.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_declares_what_is_asked_of_it(name):
    found = corpus(name)
    assert isinstance(found, Corpus) and found.sample and set(found.settings) <= set(Data.model_fields)
    assert bool(found.evaluation) == found.talks and found.evaluation in ("", *EVALUATORS)
    assert found.writes or not found.talks
    assert found.scores or not {"regress", "classify"} & set(found.tasks)
    assert not found.labels or found.evaluation == "emotions"


@pytest.mark.parametrize(
    ("name", "builder", "message"),
    [
        ("ed5", None, r"data\.name: unknown corpus 'ed5'; did you mean ed4\? \(choices: .*; for your own corpus, .*builder"),
        ("ed4", "users_corpora:Notes", r"data\.name: 'ed4' is a corpus of this package; .* another name"),
        ("notes", "users_corpora.Notes", r"data\.builder: 'users_corpora\.Notes' is not of the form package\.module:Name"),
        ("notes", "users_corpora:Note", r"has no class or function Note; did you mean Notes\? \(choices: Notes, Half\)"),
        ("notes", "users_corpora:NOTE", "has no class or function NOTE"),
        ("notes", "no_such_module:Notes", r"cannot import no_such_module: .*PYTHONPATH"),
        ("notes", "pathlib:Path", r"pathlib:Path is not a subclass of empathy_trl\.data\.Corpus"),
        ("notes", "users_corpora:Half", r"users_corpora:Half\(\) raises TypeError: .*abstract method '?parse"),
    ],
)  # fmt: skip
def test_a_corpus_that_cannot_be_had(users_corpora, name, builder, message):
    with pytest.raises(UserError, match=message):
        corpus(name, builder)


def test_a_corpus_of_the_users_is_read_by_the_base_class_alone(users_corpora, tmp_path):
    tmp_path.joinpath("train.tsv").write_text("text\tmood\nHi there\tgood\n")
    config = Data(name="notes", builder="users_corpora:Notes", path=str(tmp_path))
    assert build(config, "train", "classify").to_dict() == {"text": ["Hi there"]}
    with pytest.raises(UserError, match="the notes data has no columns for task 'sft' .choices: classify"):
        build(config, "train", "sft")
    with pytest.raises(UserError, match="the notes data has no labels to predict; its tasks: classify"):
        corpus("notes", "users_corpora:Notes").targets(config)
    with pytest.raises(DataError, match=r"data\.path: no folder 'sample' here; expected a folder with train"):
        build(Data(name="notes", builder="users_corpora:Notes"), "train", "classify")


@pytest.mark.parametrize("name", CORPORA)
def test_what_the_user_can_fix_is_said_for_every_corpus(name, tmp_path):
    config, found = Data(name=name), corpus(name)
    for split in ("dev", "tests"):
        with pytest.raises(UserError, match=rf"unknown split '{split}'.* \(choices: train, valid, test\)"):
            read_split(config, split)
    with pytest.raises(UserError, match=rf"the {name} data has no columns for task 'dpo'.*{found.tasks[0]}"):
        build(config, "train", "dpo")
    with pytest.raises(DataError, match=rf"no folder 'nowhere' here; expected 'sample'.*{re.escape(found.expected)}"):
        read_split(Data(name=name, path="nowhere"), "train")
    with pytest.raises(DataError, match=r"\(?(files )?found: none\)"):
        read_split(Data(name=name, path=str(tmp_path)), "test")
    if not {"regress", "classify"} & set(found.tasks):
        with pytest.raises(UserError, match=rf"the {name} data has no labels to predict"):
            found.targets(config)


ROWS = "text,label\nok,1\n" + ",1\na,9\n" * 4


@pytest.fixture
def bad_rows(tmp_path):
    tmp_path.joinpath("train.csv").write_text(ROWS)
    return Data(name="ed4", path=str(tmp_path))


def test_many_bad_rows_make_one_error_with_the_first_five_in_file_order(bad_rows):
    with pytest.raises(DataError) as caught:
        read_split(bad_rows, "train")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("8 of 9 rows cannot be used (4 empty text, 4 unknown label)")
    assert [line.split(":")[0].strip() for line in lines[1:6]] == [f"line {n}" for n in range(3, 8)]
    assert lines[6:] == ["  and 3 more", "fix them, or leave them out with data.on_bad_rows: drop"]


def test_dropped_rows_are_counted_by_reason_and_warned_of_once(bad_rows, caplog):
    with caplog.at_level(logging.WARNING):
        rows, report = read_split(bad_rows.model_copy(update={"on_bad_rows": "drop"}), "train")
    assert rows == [{"text": "ok", "label": "joyful"}] and len(caplog.records) == 1
    assert report.dropped == {"empty text": 4, "unknown label": 4}
    assert str(report).endswith("9 read, 8 dropped (4 empty text, 4 unknown label), 1 used, 0 shortened")


def test_dropping_every_row_is_an_error(bad_rows, tmp_path):
    tmp_path.joinpath("train.csv").write_text("text,label\n,1\na,9\n")
    with pytest.raises(DataError, match=r"2 of 2 rows cannot be used(.|\n)*no row is left"):
        read_split(bad_rows.model_copy(update={"on_bad_rows": "drop"}), "train")


@pytest.mark.parametrize(
    ("portion", "expected"),
    [((0.0, 1.0), range(10)), ((0.0, 0.25), range(2)), ((0.25, 1.0), range(2, 10)), ((0.9, 1.0), [9])],
)
def test_a_portion_takes_training_rows_in_file_order(tmp_path, portion, expected):
    for split in ("train", "test"):
        lines = "".join(f"row {number},1\n" for number in range(10))
        tmp_path.joinpath(f"{split}.csv").write_text(f"text,label\n{lines}")
    config = Data(name="ed4", path=str(tmp_path), portion=portion)
    assert [row["text"] for row in read_split(config, "train")[0]] == [f"row {number}" for number in expected]
    assert len(read_split(config, "test")[0]) == 10
    with pytest.raises(DataError, match=r"data\.portion \[0\.0, 0\.05\] of 10 rows leaves no row"):
        read_split(config.model_copy(update={"portion": (0.0, 0.05)}), "train")


def test_long_texts_lose_their_beginning_and_are_counted(tmp_path):
    words = [f"w{number}" for number in range(5000)]
    tmp_path.joinpath("train.csv").write_text(f"text,label\n{' '.join(words)},1\nshort,0\n")
    rows, report = read_split(Data(name="ed4", path=str(tmp_path), max_words=10), "train")
    assert rows[0]["text"].split() == words[-10:]
    assert str(report) == f"{tmp_path / 'train.csv'}: 2 read, 0 dropped, 2 used, 1 shortened"
    with pytest.raises(DataError, match=r"train\.csv is one table without splits; give the folder"):
        read_split(Data(name="ed4", path=str(tmp_path / "train.csv")), "train")


def test_a_local_folder_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert on_hub("data/mine", needs_owner=True)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    assert not on_hub("data/mine", needs_owner=True)
    assert not on_hub("sample", needs_owner=True) and on_hub("gpt2") and not on_hub("outputs/ed4")


def test_columns_have_types_even_where_no_value_tells():
    class Empty(Corpus):
        tasks = ("sft",)
        types = {"extra": ["string"]}  # noqa: RUF012

        def read_table(self, config, split):
            raise NotImplementedError

        def read_split(self, config, split):
            return [{"prompt": [], "emotion": None, "extra": [], "count": 3}], None

        def parse(self, row, config):
            return BadRow(row.where, "", "")

    features = Empty().build(Data(name="empty"), "train", "sft").features
    kinds = {name: getattr(kind, "dtype", None) or str(kind) for name, kind in features.items()}
    assert kinds["emotion"] == "string" and kinds["count"] == "int64"
    assert "string" in kinds["extra"] and "role" in kinds["prompt"]


@pytest.mark.parametrize(("name", "task"), [(name, task) for name in CORPORA for task in corpus(name).tasks])
def test_rows_of_every_corpus_may_have_weights(monkeypatch, name, task):
    def weighted(read):
        def rows_with_weights(*args):
            if (table := read(*args)) is not None:
                for number, row in enumerate(table.rows):
                    row.cells["row_weight"] = "0.5" if number % 2 else ""
            return table

        return rows_with_weights

    data = Data(name=name, path="sample", **{"split_by": "conversation"} if name == "wassa" else {})
    plain = build(data, "train", task)
    for method in ("split", "only"):
        monkeypatch.setattr(Source, method, weighted(getattr(Source, method)))
    rows = build(data, "train", task)
    assert {column: rows[column] for column in plain.column_names} == {name: plain[name] for name in plain.column_names}
    assert set(rows["row_weight"]) == {0.5, 1}
    assert "row_weight" not in build(data, "test", task).column_names
    _, report = read_split(data, "train")
    assert report.notes["with a row_weight other than 1"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["1", "often"], "line 3: unusable row_weight: 'often'; expected a number of at least 0, or nothing for 1"),
        (["-1", "1"], "line 2: unusable row_weight: '-1'; expected"),
        (["nan", "inf"], "line 2: unusable row_weight: 'nan'; expected"),
        (["0", "0.0"], "train.csv: row_weight is 0 in all 2 rows; expected at least one above 0"),
    ],
)
def test_weights_that_cannot_be_used(tmp_path, weights, message):
    rows = [f"I lost my key,sad,{weight}" for weight in weights]
    tmp_path.joinpath("train.csv").write_text("\n".join(["text,label,row_weight", *rows]))
    with pytest.raises(DataError, match=re.escape(message)):
        build(Data(name="ed4", path=str(tmp_path)), "train", "grpo")

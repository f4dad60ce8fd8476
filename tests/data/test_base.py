"""What every corpus declares, and how a corpus is found by its name or its builder."""

import pytest

from empathy_trl.data import CORPORA, build, corpus
from empathy_trl.data.base import BadRow, Corpus
from empathy_trl.errors import DataError, UserError
from empathy_trl.evaluation import EVALUATORS
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
        ("ed5", None, r"data\.name: unknown corpus 'ed5'; did you mean ed4\? \(choices: .*; for one of your own, .*builder"),
        ("ed4", "users_corpora:Notes", r"data\.name: 'ed4' is a corpus of this package; .* another name"),
        ("notes", "users_corpora.Notes", r"data\.builder: 'users_corpora\.Notes' is not of the form package\.module:Name"),
        ("notes", "users_corpora:Note", r"has no class or function Note; did you mean Notes\? \(choices: Notes, Half\)"),
        ("notes", "users_corpora:NOTE", "has no class or function NOTE"),
        ("notes", "no_such_module:Notes", r"cannot import no_such_module: .*PYTHONPATH"),
        ("notes", "pathlib:Path", r"pathlib:Path is not a subclass of empathy_trl\.data\.base\.Corpus"),
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

"""Names of models with a revision behind an @."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.models.hub_files import join_revision, one_revision, split_revision


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("me/model", ("me/model", None)),
        ("gpt2@v1", ("gpt2", "v1")),
        ("me/model@v1.0", ("me/model", "v1.0")),
        ("me/model@refs/pr/1", ("me/model", "refs/pr/1")),
        ("me/model@feature/x", ("me/model", "feature/x")),
        ("openai:NAME@x", ("openai:NAME@x", None)),
        ("stage:sft", ("stage:sft", None)),
        ("outputs/ed4@v1", ("outputs/ed4@v1", None)),
        ("./here@v1", ("./here@v1", None)),
        ("/there@v1", ("/there@v1", None)),
        ("~/there@v1", ("~/there@v1", None)),
        ("a/b/c@v1", ("a/b/c@v1", None)),
        ("@v1", ("@v1", None)),
    ],
)
def test_what_stands_behind_the_at(name, parts):
    assert split_revision(name) == parts
    assert join_revision(*parts) == name


def test_a_folder_with_an_at_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model@v1").mkdir()
    assert split_revision("model@v1") == ("model@v1", None)
    assert split_revision(str(tmp_path / "model@v1")) == (str(tmp_path / "model@v1"), None)


def test_a_folder_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="model@v1: model is a folder here, and only a model on the Hub has revisions"):
        split_revision("model@v1")


@pytest.mark.parametrize("name", ["me/model@", "me/model@../../x", "me/model@a b", "me/model@-x", "me/model@a@b"])
def test_what_is_no_revision(name):
    with pytest.raises(UserError, match="is not a revision; expected USER/REPO@ with a branch, a tag or a commit"):
        split_revision(name)


def test_two_revisions_have_to_be_the_same():
    assert one_revision("me/model@v1", "v1") == one_revision("me/model", "v1") == ("me/model", "v1")
    with pytest.raises(UserError, match="me/model@v1: its revision is also given as 'v2'; expected one of them"):
        one_revision("me/model@v1", "v2")

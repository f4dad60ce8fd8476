"""The answers on disk: found again, safe for several processes, and refused when the folder cannot be used."""

import multiprocessing

import pytest

from empathy_trl.errors import UserError
from empathy_trl.models.api import Cache, default_folder, question_key

KEY = question_key({"model": "m"})


def test_what_was_put_is_found_by_another_cache(tmp_path):
    Cache(str(tmp_path)).put(KEY, '{"empathy": 3.0}')
    assert Cache(str(tmp_path)).get(KEY) == '{"empathy": 3.0}'
    assert Cache(str(tmp_path)).get(question_key({"model": "n"})) is None


def test_the_key_does_not_depend_on_the_order_of_members():
    assert question_key({"a": 1, "b": 2}) == question_key({"b": 2, "a": 1}) != question_key({"a": 2, "b": 1})


def test_none_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Cache(None).put(KEY, "1")
    assert Cache(None).get(KEY) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variable, folder", [(None, "~/.cache/empathy_trl/judge"), ("/data/cache", "/data/cache/judge")]
)
def test_the_default_folder_follows_the_environment(monkeypatch, variable, folder):
    monkeypatch.delenv("EMPATHY_TRL_CACHE", raising=False)
    if variable:
        monkeypatch.setenv("EMPATHY_TRL_CACHE", variable)
    assert default_folder() == folder


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Cache("~/answers").put(KEY, "1")
    assert (tmp_path / "answers" / KEY[:2] / f"{KEY}.json").read_text() == "1"


@pytest.mark.parametrize("act", [lambda cache: cache.put(KEY, "1"), lambda cache: cache.get(KEY)], ids=["put", "get"])
def test_a_folder_that_cannot_be_used_is_an_error_that_names_it(tmp_path, act):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache_dir: cannot use .*file.*another folder, or null"):
        act(Cache(str(tmp_path / "file")))


def put_and_get(folder, number):
    for i in range(50):
        key = question_key({"question": i})
        Cache(folder).put(key, f"answer {i}")
        if Cache(folder).get(key) != f"answer {i}":
            raise SystemExit(1)


def test_several_processes_may_write_the_same_answers(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=put_and_get, args=(str(tmp_path), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 50, "no temporary file is left"

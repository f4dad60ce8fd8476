"""Files among and below paths: each is read once, and what cannot be read is named."""

import json
import os

import pytest

from empathy_trl.errors import UserError
from empathy_trl.hub.leaderboard.entries import make_entry, read_paths
from tests.hub.leaderboard.results import evaluation, saved


def test_files_and_folders_of_any_depth_each_once(tmp_path):
    for name in ("run/sft", "run/grpo", "other", ".hidden", "run/.cache"):
        saved(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path)  # not entered, or there is no end
    paths = [tmp_path, tmp_path / "run", tmp_path / "other" / "eval_test.json", tmp_path / "run" / ".." / "other"]
    entries = read_paths(paths).entries
    assert [os.path.relpath(entry.folder, tmp_path) for entry in entries] == ["other", "run/grpo", "run/sft"]
    assert entries[0].main["value"] == 0.5


def test_a_split(tmp_path):
    saved(tmp_path / "a")
    (tmp_path / "a" / "eval_valid.json").write_text(json.dumps(evaluation("a", data={"split": "valid"})))
    assert len(read_paths([tmp_path]).entries) == 2
    assert [entry.evaluation["data"]["split"] for entry in read_paths([tmp_path], "valid").entries] == ["valid"]
    with pytest.raises(UserError, match="no results; looked for eval_train.json, there and in all folders below"):
        read_paths([tmp_path], "train")


def test_a_broken_file_is_named_and_the_others_count(tmp_path):
    saved(tmp_path / "good")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "eval_test.json").write_text('{"recipe": ')
    found = read_paths([tmp_path])
    assert len(found.entries) == 1 and len(found.problems) == 1
    assert f"{tmp_path}/cut/eval_test.json, line 1: not valid JSON" in found.problems[0]


def test_nothing_left_is_an_error_with_every_reason(tmp_path):
    (tmp_path / "eval_test.json").write_text("[]")
    (tmp_path / "eval_valid.json").write_text("\x00")
    with pytest.raises(UserError, match=r"(?s)no results that can be read:.*is no evaluation.*not valid JSON"):
        read_paths([tmp_path])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such file or folder; expected eval_<split>.json, or a folder"),
        ("report.md", "report.md: expected a file named eval_train.json, eval_valid.json, eval_test.json, or a folder"),
        ("empty", "empty: no results; looked for eval_test.json or another split's"),
    ],
)
def test_paths_without_results(tmp_path, name, message):
    (tmp_path / "report.md").write_text("# Report")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        read_paths([tmp_path / name])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([1], "is no evaluation"),
        ("text", "is no evaluation"),
        (evaluation(kind="songs"), "is no evaluation"),
        ({key: value for key, value in evaluation().items() if key != "metrics"}, "is no evaluation; expected .*metrics"),
        (evaluation(metrics={}), "metrics is .*at least one"),
        (evaluation(metrics={"macro_f1": {"value": 1.0}}), "metrics has no accuracy, by which evaluations of emotions"),
        (evaluation(metrics={"accuracy": {"value": True}}), "metrics.accuracy is "),
        (evaluation(metrics={"accuracy": {"value": 0.5, "low": "0"}}), "metrics.accuracy is .*expected numbers as value"),
        (evaluation(metrics={"accuracy": {"value": float("nan")}}), "metrics.accuracy is .*expected numbers"),
        (evaluation(metrics={"accuracy": {"value": 10**400}}), "metrics.accuracy is .*expected numbers"),
        (evaluation(metrics={"accuracy": {"value": 0.5, "high": 1e300}}), "metrics.accuracy is .*expected numbers"),
        (evaluation(baselines=[]) | {"baselines": ["x"]}, "baselines is .*; expected a mapping of mappings"),
        (evaluation(baselines={"majority": {"accuracy": 1}}), "baselines.majority.accuracy is 1; expected numbers"),
        (evaluation(data={"split": "../x"}), "data.split is '../x'; expected train, valid, test"),
        (evaluation(data={"source": 5}), "data.source is 5; expected a text"),
        (evaluation(data={"n": "many"}), "data.n is 'many'; expected a whole number"),
        (evaluation(data={"rows": ["x"]}), r"data.rows is .*; expected a text"),
        (evaluation(judged_by=["bleu"]), "judged_by is .*expected a mapping of mappings"),
    ],
)  # fmt: skip
def test_what_is_no_evaluation_is_refused_by_key_and_value(made, message):
    with pytest.raises(UserError, match=f"^here: .*{message}"):
        make_entry(made, "here")


def test_a_card_has_a_digest_in_place_of_the_rewards():
    assert make_entry(evaluation(judged_by="0123"), "user/model").evaluation["judged_by"] == "0123"


def test_texts_play_no_tricks_on_a_screen():
    made = make_entry(evaluation("a\x1b[2Jb\u202ec\ud800"), "here")
    assert made.evaluation["model"] == "a\\x1b[2Jbc\ufffd"

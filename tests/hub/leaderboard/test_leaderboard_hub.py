"""Evaluations from model cards, of a Hub on this machine."""

import pytest
from huggingface_hub import HfApi, ModelCardData

from empathy_trl.errors import UserError
from empathy_trl.hub.leaderboard.entries import read_hub
from empathy_trl.hub.leaderboard.table import build_board
from empathy_trl.hub.results import to_results
from tests.hub.leaderboard.results import evaluation, figure


def publish(repo_id, *evaluations, card=None):
    HfApi().create_repo(repo_id, exist_ok=True)
    if card is None:
        results = [result for made in evaluations for result in to_results(made)]
        data = ModelCardData(tags=["empathy-trl"], model_name=repo_id, eval_results=results or None)
        card = f"---\n{data.to_yaml()}\n---\n# Model\n"
    HfApi().upload_file(repo_id=repo_id, path_in_repo="README.md", path_or_fileobj=card.encode())


@pytest.fixture
def models(hub_server):
    """Three models of ann: two with results, one without; one of another tag."""
    publish("ann/one", evaluation("local/folder", 0.5, baselines={"majority": {"accuracy": figure(0.25)}}))
    publish("ann/two", evaluation("x", 0.9), evaluation("x", 0.8, data={"split": "valid", "rows": "bb"}))
    publish("ann/plain", card="---\ntags:\n- other\n---\n# Model\n")
    return hub_server


@pytest.mark.parametrize("name", ["ann", "empathy-trl"])
def test_an_author_or_a_tag(models, name):
    found = read_hub(name)
    shown = {(each.origin, each.evaluation["data"]["split"], each.main["value"]) for each in found.entries}
    assert shown == {("ann/one", "test", 0.5), ("ann/two", "test", 0.9), ("ann/two", "valid", 0.8)}
    without = ["1 of 3 models of author ann: no evaluation results in the card"] if name == "ann" else []
    assert found.problems == without
    first = build_board(found, []).tables[0]
    assert [(row.place, row.name) for row in first.rows] == [(1, "ann/two"), (2, "ann/one"), (None, "majority class")]


def test_a_split(models):
    assert [each.main["value"] for each in read_hub("ann", "valid").entries] == [0.8]
    with pytest.raises(
        UserError, match=r"--hub ann: 3 model\(s\) of author ann, and none with evaluation results of split train"
    ):
        read_hub("ann", "train")


def test_a_card_that_cannot_be_read_is_named_and_the_others_count(models):
    publish("ann/broken", card="---\nmodel-index:\n- name: x\n  results:\n  - oops\n---\n")
    found = read_hub("ann")
    assert len(found.entries) == 3
    assert [line.partition(":")[0] for line in found.problems] == ["ann/broken", "1 of 4 models of author ann"]


def test_a_card_without_figures_we_can_rank_is_named(models):
    publish("ann/odd", evaluation("x", metrics={"macro_f1": figure(0.5)}))
    assert any(
        line.startswith("ann/odd: its card cannot be read: ann/odd: metrics has no accuracy")
        for line in read_hub("ann").problems
    )


def test_nobody_and_nothing_of_that_name(models):
    with pytest.raises(
        UserError, match="--hub nobody: no model on the Hub has this author or tag; if they are private"
    ):
        read_hub("nobody")


def test_a_server_that_fails_is_no_missing_card(models, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    models.fail("*", "ann/two/resolve", status=500, times=50)
    with pytest.raises(UserError, match="--hub ann: the Hub is in trouble .HTTP 500.*can be given instead"):
        read_hub("ann")


def test_a_model_that_is_closed_is_named_and_the_others_count(models):
    models.fail("*", "ann/two/resolve", status=403, times=50)
    found = read_hub("ann")
    assert [each.origin for each in found.entries] == ["ann/one"]
    assert any(line.startswith("ann/two: you may not see its card (HTTP 403)") for line in found.problems)


def test_without_a_network(tmp_path, hub_server):
    with (
        hub_server.in_this_process(tmp_path, offline=True),
        pytest.raises(
            UserError, match="--hub ann: HF_HUB_OFFLINE=1 forbids requests to the Hub; unset it. Folders with"
        ),
    ):
        read_hub("ann")

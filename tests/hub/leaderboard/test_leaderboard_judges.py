"""Figures of different classifiers: never in one column, and the models still in one table."""

from empathy_trl.hub.leaderboard.ranking import direction
from empathy_trl.hub.leaderboard.render import csv_text, page
from empathy_trl.hub.leaderboard.table import build_board
from tests.hub.leaderboard.results import entry, figure, found

METRICS = {"emo_acc": figure(0.5), "epitome_explorations_mse": figure(0.4)}


def judged(model, value, metrics=METRICS, **weights):
    """A model's replies with mean reward `value`; `weights`: kind of classifier -> digest, in whichever form."""
    record = {"classifiers": weights} if weights else {}
    reference = {"reference": {"emo_acc": figure(0.6)}} if "emo_acc" in metrics else {}
    return entry(model, kind="replies", metrics={"reward": figure(value)} | metrics, baselines=reference, **record)


def board_of(*entries):
    return build_board(found(*entries), [])


def test_by_the_same_classifier_in_one_column():
    from_file = {"model": "outputs/emotion32/classify", "weights": "aaaaaaaaaaaaaaaa"}
    (table,) = board_of(
        judged("a", 1.0, emotion=from_file), judged("b", 2.0, emotion="aaaaaaaaaaaaaaaa"), judged("c", 0.5, {})
    ).tables
    assert list(table.columns) == ["reward", "emo_acc"] and not any("digest" in note for note in table.notes)


def test_by_different_classifiers_in_a_column_each():
    models = (
        judged("a", 1.0, emotion="aaaaaaaaaaaaaaaa"),
        judged("b", 2.0, emotion="bbbbbbbbbbbbbbbb"),
        judged("old", 0.5),
    )
    board = board_of(*models)
    (table,) = board.tables  # their rewards can be compared
    assert {row.name: row.place for row in table.rows if row.role == "model"} == {"b": 1, "a": 2, "old": 3}
    of = {
        row.name: [column for column in row.figures if "emo_acc" in column] for row in table.rows if row.role == "model"
    }
    assert of == {"a": ["emo_acc by aaaaaaaa"], "b": ["emo_acc by bbbbbbbb"], "old": ["emo_acc by not recorded"]}
    assert table.columns["emo_acc by aaaaaaaa"] == "EMO-ACC (classifier aaaaaaaa)"
    references = [column for row in table.rows if row.role == "baseline" for column in row.figures]
    assert sorted(references) == sorted(column for columns in of.values() for column in columns)
    assert any("figures of two cannot be compared" in note for note in table.notes)
    assert "emo_acc by bbbbbbbb,False" in csv_text(board) and "EMO-ACC (classifier aaaaaaaa) ↑" in page(board)
    assert "epitome_explorations_mse" in table.rows[0].figures  # by which classifier is not known of any of them


def test_a_column_s_direction_is_that_of_its_metric():
    assert direction("epitome_explorations_mse by aaaaaaaa") == -1 and direction("epitome_explorations by aa") == 0

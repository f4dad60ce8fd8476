"""What a leaderboard shows: headings, headlines, reference rows, notes, and columns of different classifiers."""

import pytest

from empathy_trl.hub.leaderboard.entries import Published
from empathy_trl.hub.leaderboard.ranking import direction
from empathy_trl.hub.leaderboard.render import csv_text, page
from empathy_trl.hub.leaderboard.table import build_board, names
from tests.hub.leaderboard.results import entry, figure, found

FIGURE = {
    "name": "BERT", "kind": "emotions", "data": "ed4", "measured_on": "ED", "split": "test", "n": 200, "rows": "aa",
    "metrics": {"accuracy": 0.8}, "metrics_version": 1, "measured": True, "note": "one seed", "source": "Ann 2020",
    "url": "https://example.org",
}  # fmt: skip
BASELINES = {"majority": {"accuracy": figure(0.25)}, "tfidf_logreg": {"accuracy": figure(0.6)}}


def tables(*entries, published=()):
    return build_board(found(*entries), list(published)).tables


def table(*entries, **settings):
    (only,) = tables(*entries, **settings)
    return only


def test_rows_are_in_order_and_reference_rows_have_no_place():
    rows = table(
        entry("low", 0.3, baselines=BASELINES), entry("b", 0.7), entry("a", 0.7), entry("high", 0.72), published=[Published(**FIGURE)]
    ).rows  # fmt: skip
    assert [(row.rank, row.role, row.name) for row in rows] == [
        (None, "published", "BERT"),
        (1, "model", "high"),
        (1, "model", "a"),  # as good as b, and before it in the alphabet
        (1, "model", "b"),
        (None, "baseline", "TF-IDF + logistic regression"),
        (4, "model", "low"),
        (None, "baseline", "majority class"),
    ]
    assert rows[0].note == "Ann 2020; one seed" and rows[0].url == "https://example.org"


@pytest.mark.parametrize(
    ("values", "headline"),
    [
        ([0.5], "m0 is the only model here: accuracy 0.500."),
        ([0.5, 0.9], "m1 is first: accuracy 0.900."),
        ([0.5, 0.52], "m1 and m0 share rank 1: their difference is not significant."),
        ([0.5, 0.52, 0.54, 0.2], "m2, m1 and m0 share rank 1: their differences are not significant."),
        ([0.5] * 6, "m0, m1, m2 and 3 others share rank 1: their differences are not significant."),
    ],
)
def test_headline(values, headline):
    assert table(*(entry(f"m{number}", value) for number, value in enumerate(values))).headline == headline


def test_headline_says_what_no_model_reaches():
    headline = table(entry("a", 0.5, baselines=BASELINES)).headline
    assert headline.endswith("No model has a better figure than TF-IDF + logistic regression: 0.600.")
    assert "No model" not in table(entry("a", 0.9, baselines=BASELINES)).headline


def test_equal_baselines_are_there_once_and_different_ones_say_whose_they_are():
    def shown(*of):
        return [row.name for row in table(*of).rows if row.role == "baseline"]

    same = [entry("a", baselines=BASELINES), entry("b", baselines=BASELINES)]
    assert shown(*same) == ["TF-IDF + logistic regression", "majority class"]
    other = {"majority": {"accuracy": figure(0.2)}, "own": {}}
    assert shown(entry("a", baselines=other), entry("b", baselines=BASELINES, recipe="q")) == [
        "TF-IDF + logistic regression", "majority class (q / s)", "majority class (r / s)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rows": "bb"}, "other rows: ED, test split"),
        ({"rows": None, "split": "valid"}, "other rows: ED, valid split"),
        ({"metrics_version": None}, "defined in another way"),
        ({"metrics_version": 2}, "defined as in metrics version 2"),
        ({"measured": False}, "expected by its source and not measured"),
    ],
)
def test_a_published_figure_that_is_not_comparable_stands_below_with_the_reason(changes, reason):
    shown = table(entry("a"), published=[Published(**FIGURE | changes)])
    assert [row.role for row in shown.rows] == ["model"]
    assert shown.apart == [f"BERT: accuracy 0.800 ({reason}). Source: Ann 2020; one seed, https://example.org"]


def test_the_shared_task_stands_beside_the_random_split_that_leaks():
    metrics = {"pearson_mean": figure(0.5)}
    (shown,) = build_board(found(entry("a", kind="ratings", metrics=metrics, data={"name": "wassa"}))).tables
    official, leaking = shown.apart
    assert (
        "pearson_mean 0.590, pearson_Emotion 0.581, pearson_EmotionalPolarity 0.644, pearson_Empathy 0.544" in official
    )
    assert "pearson_mean 0.725" in leaking and "leaks" in leaking and shown.main == "pearson_mean"


def test_published_figures_of_other_data_or_kinds_are_not_shown():
    shown = table(
        entry("a"), published=[Published(**FIGURE | {"data": "wassa"}), Published(**FIGURE | {"kind": "labels"})]
    )
    assert len(shown.rows) == 1 and not shown.apart


def test_main_metric_comes_first_and_columns_are_those_of_the_kind():
    metrics = {"reward_bleu": figure(1), "reward": figure(2), "reply_words": figure(9), "rows_of_a_sum": figure(3)}
    shown = table(entry("a", kind="replies", metrics=metrics))
    assert shown.columns == {"reward": "mean reward", "reward_bleu": "bleu", "reply_words": "words per reply"}
    assert shown.main == "reward"


def test_labels_of_a_card_have_their_columns():
    metrics = {
        "accuracy": figure(0.5),
        "macro_f1_a": figure(0.4),
        "precision_x_a": figure(0.4),
        "macro_f1_b": figure(0.4),
    }
    assert list(table(entry("a", kind="labels", metrics=metrics)).columns) == ["accuracy", "macro_f1_a", "macro_f1_b"]


def test_headings_do_not_say_where_a_folder_lies():
    shown = table(entry("/home/ann/runs/ed4/grpo", data={"source": "/home/ann/secret/my_rows"}))
    assert shown.heading == "Naming emotions: ed4, test split of my_rows, n = 200"
    assert shown.rows[0].name == "ed4/grpo" and "ann" not in shown.headline


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["outputs/r/sft", "outputs/r/grpo"], ["r/sft", "r/grpo"]),
        (["user/model", "openai:gpt"], ["user/model", "openai:gpt"]),
        (["outputs/x/r/sft", "outputs/y/r/sft"], ["x/r/sft", "y/r/sft"]),
    ],
)
def test_names_are_short_and_differ(models, expected):
    assert names([entry(model) for model in models]) == expected


def test_equal_names_are_told_apart_by_recipe_then_folder_then_number():
    assert names([entry("m"), entry("m", recipe="q")]) == ["m (r / s)", "m (q / s)"]
    twins = names([entry("m"), entry("m")])
    assert len(set(twins)) == 2 and twins[1].endswith("(no. 2)")


def test_notes_count_what_was_left_out_and_say_how_places_were_found():
    board = build_board(found(entry("a"), entry("a"), entry("b"), entry("c", metrics_version=2)), [])
    assert board.notes[0] == (
        "3 results in 2 tables. Results that differ in kind, rows, decoding, rewards or metrics version are never in one table. "
        "1 result left out that repeats another: same model, rows and figures."
    )
    assert any("1 pair of models compared by whether their intervals overlap" in note for note in board.tables[0].notes)
    assert board.tables[1].why_apart == "apart from table 1: metrics version 2, not 1"
    first, second = (each.label for each in board.tables)
    assert second == f"{first} (apart from table 1: metrics version 2, not 1)"


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
    assert {row.name: row.rank for row in table.rows if row.role == "model"} == {"b": 1, "a": 2, "old": 3}
    of = {
        row.name: [column for column in row.figures if "emo_acc" in column] for row in table.rows if row.role == "model"
    }
    assert of == {"a": ["emo_acc by aaaaaaaa"], "b": ["emo_acc by bbbbbbbb"], "old": ["emo_acc by not recorded"]}
    assert table.columns["emo_acc by aaaaaaaa"] == "EMO-ACC (classifier aaaaaaaa)"
    references = [column for row in table.rows if row.role == "baseline" for column in row.figures]
    assert sorted(references) == sorted(column for columns in of.values() for column in columns)
    assert any("cannot be compared" in note for note in table.notes)
    assert "emo_acc by bbbbbbbb,False" in csv_text(board) and "EMO-ACC (classifier aaaaaaaa) ↑" in page(board)
    assert "epitome_explorations_mse" in table.rows[0].figures  # by which classifier is not known of any of them


def test_a_column_s_direction_is_that_of_its_metric():
    assert direction("epitome_explorations_mse by aaaaaaaa") == -1 and direction("epitome_explorations by aa") == 0

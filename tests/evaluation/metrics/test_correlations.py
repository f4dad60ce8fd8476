"""Scores of ratings against scipy, and what they say of constants."""

import numpy as np
import pytest
from scipy import stats

from empathy_trl.evaluation.base import score_rating_baselines
from empathy_trl.evaluation.metrics.agreement import score_ratings
from empathy_trl.models.label_schema import pearson

NAMES = ["Emotion", "Empathy"]


@pytest.fixture
def ratings():
    random = np.random.default_rng(0)
    gold = random.integers(0, 6, size=(60, 2)).astype(float)  # with ties, as raters give them
    return gold + random.normal(size=gold.shape), gold


def test_figures_are_those_of_scipy(ratings):
    predicted, gold = ratings
    metrics = score_ratings(predicted, gold, NAMES)
    for i, name in enumerate(NAMES):
        assert metrics[f"pearson_{name}"]["value"] == pytest.approx(stats.pearsonr(predicted[:, i], gold[:, i])[0])
        assert metrics[f"spearman_{name}"]["value"] == pytest.approx(stats.spearmanr(predicted[:, i], gold[:, i])[0])
        assert metrics[f"mae_{name}"]["value"] == pytest.approx(np.abs(predicted[:, i] - gold[:, i]).mean())
    for figure in ("mae", "pearson", "spearman"):
        mean = np.mean([metrics[f"{figure}_{name}"]["value"] for name in NAMES])
        assert metrics[f"{figure}_mean"]["value"] == pytest.approx(mean)
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] == 60 for row in metrics.values())
    assert all(row["high"] - row["low"] > 0.05 for row in metrics.values())


def test_a_constant_orders_nothing_whatever_its_value():
    gold = np.array([[1.0], [2.0], [4.0]])
    for constant in (0.0, 2.1, 1 / 3, 1e6):
        metrics = score_ratings(np.full((3, 1), constant), gold, ["x"])
        assert metrics["pearson_x"]["value"] == metrics["spearman_x"]["value"] == 0
    assert score_ratings(gold, gold, ["x"])["pearson_x"]["value"] == pytest.approx(1)
    assert score_ratings(-gold, gold, ["x"])["spearman_x"]["value"] == pytest.approx(-1)


def test_nan_is_no_constant():
    assert np.isnan(pearson(np.array([1.0, np.nan, 2.0]), np.array([1.0, 2.0, 3.0])))


def test_small_ratings_still_correlate():
    values = np.array([1e-6, 2e-6, 4e-6])
    assert pearson(values, values) == pytest.approx(1)


@pytest.mark.parametrize(
    "predicted, gold", [(np.zeros((0, 1)), np.zeros((0, 1))), (np.zeros((2, 1)), np.zeros((2, 2)))]
)
def test_shapes_that_do_not_fit_are_refused(predicted, gold):
    with pytest.raises(ValueError, match="expected equal shapes"):
        score_ratings(predicted, gold, NAMES)


def test_baselines_learn_from_the_training_rows_only():
    train = ["warm and kind", "cold and short"] * 10
    metrics = score_rating_baselines(
        train, [[5.0], [1.0]] * 10, ["kind", "short", "kind"], [[5.0], [1.0], [4.0]], ["x"]
    )
    assert metrics["mean"]["mae_x"]["value"] == pytest.approx((2 + 2 + 1) / 3)
    assert metrics["mean"]["pearson_x"]["value"] == 0
    assert metrics["tfidf_ridge"]["pearson_x"]["value"] > 0.9

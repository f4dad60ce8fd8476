"""Bootstrap intervals: right width, every degenerate input, and a paired comparison that sees real differences only."""

import numpy as np
import pytest

from empathy_trl.evaluation.metrics.bootstrap import (
    bootstrap,
    bootstrap_sums,
    mean_figure,
    mean_figures,
    paired_bootstrap,
    with_interval,
)


def mean(rows):
    return rows.mean(axis=-1)


def test_interval_of_a_share_agrees_with_the_normal_approximation():
    rows = np.repeat([1.0, 0.0], [300, 700])
    value, low, high = bootstrap(mean, rows)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert value == pytest.approx(0.3)
    assert (low, high) == (pytest.approx(0.3 - half, abs=0.004), pytest.approx(0.3 + half, abs=0.004))


def test_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        _, low, high = bootstrap(mean, generator.normal(2.0, 1.0, 60), n_resamples=500)
        hits += low <= 2.0 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_same_seed_same_interval_and_another_seed_another():
    rows = np.arange(20.0)
    assert bootstrap(mean, rows, seed=3) == bootstrap(mean, rows, seed=3) != bootstrap(mean, rows, seed=4)


def test_arrays_are_resampled_together():
    x = np.arange(50.0)
    value, low, high = bootstrap(lambda a, b: (a - b).mean(axis=-1), x, x)
    assert (value, low, high) == (0, 0, 0)


def test_several_numbers_at_once_see_the_same_draws():
    rows = np.random.default_rng(0).normal(size=40)
    value, low, high = bootstrap(lambda draw: np.stack([mean(draw), 2 * mean(draw)], axis=-1), rows)
    assert value.shape == low.shape == high.shape == (2,)
    assert low[1] == pytest.approx(2 * low[0]) and high[1] == pytest.approx(2 * high[0])


def test_chunks_do_not_change_the_result(monkeypatch):
    rows = np.random.default_rng(0).normal(size=30)
    at_once = bootstrap(mean, rows)
    monkeypatch.setattr("empathy_trl.evaluation.metrics.bootstrap._ROWS_AT_ONCE", 100)
    assert bootstrap(mean, rows) == pytest.approx(at_once)


@pytest.mark.parametrize("rows", [[0.7], [0.7] * 25, [True] * 9, [0] * 3])
def test_one_row_and_constant_rows_have_width_0(rows):
    value, low, high = bootstrap(mean, rows)
    assert value == low == high == pytest.approx(float(rows[0]))


@pytest.mark.parametrize("arrays", [([],), ([1, 2], [1]), ()])
def test_empty_or_unequal_arrays_are_refused(arrays):
    with pytest.raises(ValueError, match="one equal length above 0"):
        bootstrap(mean, *arrays)


def answers(n, share, seed):
    return np.random.default_rng(seed).random(n) < share


def test_paired_bootstrap_sees_a_real_difference():
    a, b = answers(400, 0.5, seed=0), answers(400, 0.65, seed=1)
    result = paired_bootstrap(a, b)
    assert result["difference"] == pytest.approx(b.mean() - a.mean())
    assert 0 < result["low"] < result["difference"] < result["high"] and result["n"] == 400
    swapped = paired_bootstrap(b, a)
    assert swapped["difference"] == pytest.approx(-result["difference"]) and swapped["high"] < 0


def test_paired_bootstrap_rarely_sees_a_difference_that_is_not_there():
    found = 0
    for seed in range(100):
        result = paired_bootstrap(answers(200, 0.6, seed), answers(200, 0.6, 1000 + seed), n_resamples=500)
        found += not result["low"] <= 0 <= result["high"]
    assert found <= 12


def test_pairing_removes_the_difficulty_of_the_rows():
    """Two models that agree on almost every row: unpaired intervals overlap, the paired one excludes 0."""
    a = answers(400, 0.5, seed=0)
    b = a.copy()
    b[np.flatnonzero(~a)[:12]] = True
    result = paired_bootstrap(a, b)
    assert result["difference"] == pytest.approx(12 / 400) and result["low"] > 0
    assert bootstrap(mean, a * 1.0)[2] > bootstrap(mean, b * 1.0)[1]


@pytest.mark.parametrize(
    ("a", "b", "difference"), [([True], [False], -1), ([1, 0, 1], [1, 0, 1], 0), ([0] * 5, [1] * 5, 1)]
)
def test_paired_bootstrap_of_degenerate_rows(a, b, difference):
    result = paired_bootstrap(a, b)
    assert {key: result[key] for key in ("difference", "low", "high", "n")} == {
        "difference": difference, "low": difference, "high": difference, "n": len(a)}  # fmt: skip


def test_paired_bootstrap_refuses_different_rows():
    with pytest.raises(ValueError, match="same rows for both, got 2 and 3"):
        paired_bootstrap([1, 0], [1, 0, 1])


def test_with_interval():
    assert with_interval({"value": 0.61, "low": 0.5567, "high": 1}) == "0.610 [0.557, 1.000]"


@pytest.mark.parametrize("n", [1, 7, 3000])
def test_a_statistic_of_sums_has_the_interval_of_its_rows(n):
    generator = np.random.default_rng(2)
    a, b = generator.normal(5, 1, n), generator.uniform(1, 2, n)
    expected = bootstrap(lambda x, y: x.sum(axis=-1) / y.sum(axis=-1), a, b)
    assert bootstrap_sums(lambda sums: sums[..., 0] / sums[..., 1], np.stack([a, b], axis=1)) == pytest.approx(expected)


def test_means_of_many_columns_are_those_of_each():
    generator = np.random.default_rng(3)
    numbers, shares = generator.normal(2, 1, 50).tolist(), (generator.uniform(size=50) < 0.3).tolist()
    gaps = [None if i % 3 == 0 else value for i, value in enumerate(numbers)]
    figures = mean_figures({"gaps": gaps, "numbers": numbers, "shares": shares, "none": [None] * 50})
    assert list(figures) == ["gaps", "numbers", "shares"]
    for name, column in (
        ("numbers", numbers),
        ("shares", shares),
        ("gaps", [each for each in gaps if each is not None]),
    ):
        assert figures[name] == pytest.approx(mean_figure(column))


def test_the_mean_of_a_constant_has_no_width():
    for constant, shown in ((0.1, "0.100 [0.100, 0.100]"), (-0.0, "0.000 [0.000, 0.000]")):
        figure = mean_figures({"x": [constant] * 70})["x"]
        assert figure["value"] == figure["low"] == figure["high"] == constant and with_interval(figure) == shown


def test_an_interval_that_ends_at_0_does_not_cross_it():
    assert with_interval(mean_figures({"x": [1.0, *[0.0] * 30]})["x"]).endswith("[0.000, 0.097]")

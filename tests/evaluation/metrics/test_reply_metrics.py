"""What is counted in replies, against sacrebleu's own corpus score, plain loops and values worked by hand."""

import logging
import math
from collections import Counter

import numpy as np
import pytest
import sacrebleu

from empathy_trl.evaluation.metrics.reply_metrics import ORDERS, corpus_metrics, row_metrics

REFERENCES = [
    "I am so sorry to hear that, it must hurt.",
    "What happened then?",
    "That is wonderful news for you and your family!",
    "Oh no.",
]
CORPORA = {
    "close": ["I am so sorry to hear this, it hurts.", "What happened?", "That is wonderful news for all of you!", "Oh no."],
    "no 3-gram matches": ["I was sorry, it must be", "then what happened", "wonderful news", "oh no"],
    "no word matches": ["x y z", "x", "y z", "z"],
    "one word each": ["I", "What", "That", "Oh"],
    "empty ones": ["", "What happened then?", "", ""],
    "all empty": ["", "", "", ""],
    "long": ["I am so sorry to hear that, it must hurt. " * 3, *REFERENCES[1:]],
}  # fmt: skip


@pytest.mark.parametrize("replies", CORPORA.values(), ids=CORPORA)
def test_bleu_is_that_of_sacrebleu(replies):
    metrics = corpus_metrics(replies, REFERENCES)
    for n in ORDERS:
        expected = sacrebleu.metrics.BLEU(max_ngram_order=n).corpus_score(replies, [REFERENCES]).score / 100
        figure = metrics[f"bleu_{n}"]
        assert figure["value"] == pytest.approx(expected, abs=1e-9)
        assert 0 <= figure["low"] <= figure["high"] <= 1 and figure["n"] == 4


def test_the_interval_of_bleu_is_that_of_scores_of_drawn_rows():
    replies, references = CORPORA["close"] * 3, REFERENCES * 3
    generator, scorer = np.random.default_rng(0), sacrebleu.metrics.BLEU(max_ngram_order=2)
    scores = []
    for rows in generator.integers(0, 12, size=(2000, 12))[:300]:
        drawn = [[texts[row] for row in rows] for texts in (replies, references)]
        scores.append(scorer.corpus_score(drawn[0], [drawn[1]]).score / 100)
    figure = corpus_metrics(replies, references)["bleu_2"]
    assert np.percentile(scores, [2.5, 97.5]) == pytest.approx([figure["low"], figure["high"]], abs=0.03)
    assert figure["low"] < figure["value"] < figure["high"]


@pytest.mark.parametrize(
    ("reply", "reference", "expected"),
    [
        ("a b c d", "a b c d", [1, 1, 1, 1]),
        ("a b x", "a b c", [2 / 3, 1 / 2, 0, 0]),
        ("a a a", "a b", [1 / 3, 0, 0, 0]),  # clipped: the reference has one "a"
        ("a b", "a b c d", [math.exp(-1), math.exp(-1), 0, 0]),  # half as long
        ("Sorry.", "sorry .", [0, 0, 0, 0]),  # words are what white space separates, with case
        ("", "a", [None] * 4),
        (" ", "a", [None] * 4),
    ],
)
def test_published_bleu_is_one_clipped_precision_times_the_penalty(reply, reference, expected):
    values = row_metrics([reply], [reference])
    for n, value in zip(ORDERS, expected, strict=True):
        assert values[f"bleu_at_{n}"] == [value if value is None else pytest.approx(value)]


def test_published_counts_divide_by_the_replies_that_are_not_empty():
    replies = ["so sorry <movie> and <movie>", "so sorry", "", "<movie>"]
    rows, metrics = row_metrics(replies, replies, "<movie>"), corpus_metrics(replies, replies)
    assert rows["item_ratio"] == [2, 0, None, 1]
    different = {"so", "sorry", "<movie>", "and"}
    assert metrics["dist_at_1"]["value"] == pytest.approx(len(different) / 3) and metrics["dist_at_1"]["n"] == 3
    assert metrics["dist_at_2"]["value"] == pytest.approx(4 / 3)
    assert "item_ratio" not in row_metrics(replies, replies)


def test_distinct_divides_by_all_n_grams():
    metrics = corpus_metrics(["a b a b", "a b", "c"], ["x"] * 3)
    assert metrics["distinct_1"]["value"] == pytest.approx(3 / 7)
    assert metrics["distinct_2"]["value"] == pytest.approx(2 / 4)  # a b, b a; of ab, ba, ab, ab
    assert metrics["distinct_3"]["value"] == pytest.approx(2 / 2)
    assert metrics["distinct_4"]["value"] == 1.0 and metrics["distinct_1"]["n"] == 3


def test_the_jackknife_leaves_every_tenth_row_out():
    generator = np.random.default_rng(5)
    replies = [" ".join(generator.choice(list("abcdefgh"), size=generator.integers(1, 9))) for _ in range(47)]

    def share(texts):
        grams = [gram for text in texts for gram in zip(text.split(), text.split()[1:], strict=False)]
        return len(set(grams)) / len(grams)

    left = [share([text for i, text in enumerate(replies) if i % 10 != fold]) for fold in range(10)]
    error = math.sqrt(0.9 * sum((value - np.mean(left)) ** 2 for value in left))
    figure = corpus_metrics(replies, replies)["distinct_2"]
    assert figure["value"] == pytest.approx(share(replies))
    assert figure["high"] - figure["value"] == pytest.approx(1.96 * error)
    assert figure["value"] - figure["low"] == pytest.approx(1.96 * error)


@pytest.mark.parametrize("replies", [["I am so sorry"], [""], ["", ""], ["one", "two"]])
def test_few_or_empty_replies_have_figures_too(replies):
    metrics = corpus_metrics(replies, ["I am sorry"] * len(replies))
    assert len(metrics) == 12
    for figure in metrics.values():
        assert all(math.isfinite(figure[key]) for key in ("value", "low", "high"))
        assert figure["low"] <= figure["value"] <= figure["high"]


def longest_common(a, b):
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


def f_measure(shared, given, wanted):
    return 2 * shared / (given + wanted) if shared else 0.0  # of precision and recall


@pytest.mark.parametrize(
    ("reply", "reference"),
    [
        ("a b c d", "a b c d"),
        ("a b c", "c a b d"),
        ("a a b", "a b b"),
        ("so sorry, it must hurt", "Sorry! It must have hurt so."),
        ("x", "y"),
        ("", "y"),
        ("y", ""),
    ],
)
def test_rouge_is_the_f_measure_of_what_is_shared(reply, reference):
    given, wanted = ("".join(c if c.isalnum() else " " for c in text.lower()).split() for text in (reply, reference))
    rows = row_metrics([reply], [reference])
    for n in (1, 2):
        a, b = (Counter(zip(*(tokens[start:] for start in range(n)), strict=False)) for tokens in (given, wanted))
        assert rows[f"rouge_{n}"] == [pytest.approx(f_measure((a & b).total(), a.total(), b.total()))]
    assert rows["rouge_l"] == [pytest.approx(f_measure(longest_common(given, wanted), len(given), len(wanted)))]


def test_rouge_compares_stems_and_leaves_logging_as_it_is(monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    rows = row_metrics(["The families were hurting"], ["the family was hurt"])
    assert rows["rouge_1"] == [pytest.approx(3 / 4)] and rows["rouge_2"] == [pytest.approx(1 / 3)]
    assert not logging.root.handlers


def test_rows_say_how_long_how_unique_and_how_alike():
    rows = row_metrics(["So sorry!", "so sorry", "So sorry", ""], ["So sorry!", "x", "x", "x"])
    assert rows["reply_words"] == [2, 2, 2, 0]
    assert rows["duplicate_share"] == [True, False, True, False]
    assert rows["reference_similarity"][0] == pytest.approx(1) and rows["reference_similarity"][3] == 0
    assert rows["empty_share"] == [False, False, False, True]

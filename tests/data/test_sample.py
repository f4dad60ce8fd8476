"""The embedded corpus: size, balance, variety, difficulty."""

import csv
import itertools
import re
from collections import Counter
from importlib.resources import files
from types import SimpleNamespace

import pytest

from empathy_trl.data import read_split
from empathy_trl.data.ed4 import LABELS

SIZES = {"train": 560, "valid": 120, "test": 120}
SAMPLE = SimpleNamespace(
    name="ed4", builder=None, path="sample", revision=None, on_bad_rows="error", portion=(0.0, 1.0), max_words=400
)


@pytest.fixture(scope="module")
def splits():
    rows = {}
    for split in SIZES:
        with files("empathy_trl.data").joinpath(f"sample/{split}.csv").open(encoding="utf-8") as file:
            rows[split] = list(csv.DictReader(file))
    return rows


@pytest.fixture(scope="module")
def rows(splits):
    return [row for part in splits.values() for row in part]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


@pytest.mark.parametrize("split", SIZES)
def test_size_and_balance(split):
    rows, report = read_split(SAMPLE, split)
    assert len(rows) == SIZES[split]
    assert not report.dropped and not report.shortened
    assert Counter(row["label"] for row in rows) == dict.fromkeys(LABELS, SIZES[split] // 4)


@pytest.mark.parametrize("low, high", [(0.0, 0.17), (0.17, 0.5), (0.5, 1.0)])
def test_every_portion_has_all_emotions_in_similar_numbers(low, high):
    rows, _ = read_split(SimpleNamespace(**{**vars(SAMPLE), "portion": (low, high)}), "train")
    counts = Counter(row["label"] for row in rows)
    assert min(counts[label] for label in LABELS) >= 0.15 * len(rows)


def test_texts_are_6_to_40_words_and_all_different(rows):
    lengths = [len(words(row["text"])) for row in rows]
    assert min(lengths) >= 6 and max(lengths) <= 40
    assert len({row["text"].lower() for row in rows}) == len(rows)


def test_enough_replies(rows):
    assert sum(bool(row["reply"]) for row in rows) >= 240


def test_no_two_texts_share_more_than_half_of_their_trigrams(rows):
    trigrams = []
    for row in rows:
        tokens = words(row["text"])
        trigrams.append(set(zip(tokens, tokens[1:], tokens[2:], strict=False)))
    where = {}
    for number, grams in enumerate(trigrams):
        for gram in grams:
            where.setdefault(gram, []).append(number)
    shared = Counter(pair for numbers in where.values() for pair in itertools.combinations(numbers, 2))
    worst, (left, right) = max(
        (count / min(len(trigrams[a]), len(trigrams[b])), (a, b)) for (a, b), count in shared.items()
    )
    assert worst <= 0.5, (rows[left]["text"], rows[right]["text"])


def test_distinct_2(rows):
    bigrams = [pair for row in rows for pair in itertools.pairwise(words(row["text"]))]
    assert len(set(bigrams)) / len(bigrams) >= 0.55


def test_a_bag_of_words_finds_it_neither_hopeless_nor_trivial(splits):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000))
    model.fit([row["text"] for row in splits["train"]], [row["label"] for row in splits["train"]])
    accuracy = model.score([row["text"] for row in splits["test"]], [row["label"] for row in splits["test"]])
    assert 0.55 <= accuracy <= 0.90

"""The embedded rated replies: size, splits, spread of the ratings, variety, difficulty."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from empathy_trl.data import build, read_split, targets
from empathy_trl.evaluation.metrics.agreement import pair_accuracy
from empathy_trl.models.label_schema import pairs_of
from empathy_trl.recipe import Data

SIZES = {"train": 160, "valid": 40, "test": 40}
REPLIES = 5  # to a context
SAMPLE = Data(name="rated_replies")


@pytest.fixture(scope="module")
def parts():
    return {split: list(build(SAMPLE, split, "regress")) for split in SIZES}


@pytest.fixture(scope="module")
def rows(parts):
    return [row for part in parts.values() for row in part]


@pytest.fixture(scope="module")
def ratings(rows):
    return np.array([row["labels"] for row in rows])


def words(text):
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())


@pytest.mark.parametrize("split", SIZES)
def test_size(split):
    rows, report = read_split(SAMPLE, split)
    assert len(rows) == SIZES[split] and not report.dropped and not report.shortened
    assert set(Counter(row["context"] for row in rows).values()) == {REPLIES}


def test_no_context_is_in_two_parts(parts):
    contexts = [{row["context"] for row in part} for part in parts.values()]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == sum(SIZES.values()) // REPLIES


def test_ratings_are_well_spread_and_none_is_another_one(ratings):
    assert list(targets(SAMPLE)) == ["empathy", "informativeness", "recommendation", "engagement", "overall"]
    assert set(ratings.ravel()) == {1, 2, 3, 4, 5}
    assert ratings.std(axis=0).min() > 1.3
    correlations = np.corrcoef(ratings.T)
    assert abs(correlations[0, 1]) < 0.3  # warm and helpful are two things
    assert (correlations[4, :4] > 0.6).all() and (correlations[4, :4] < 0.9).all()


def test_a_film_has_a_placeholder_in_half_of_the_film_contexts_which_tells_nothing_about_empathy(parts, ratings, rows):
    for part in parts.values():
        assert len({row["context"] for row in part if "<movie>" in row["pair"]}) == len(part) // REPLIES // 4
    named = np.array(["<movie>" in row["pair"] for row in rows])
    assert abs(ratings[named, 0].mean() - ratings[~named, 0].mean()) < 0.1


def test_every_context_has_replies_to_compare(parts):
    for part in parts.values():
        pairs = pairs_of([row["context"] for row in part], [row["labels"][4] for row in part])
        assert len({part[better]["context"] for better, _ in pairs}) == len(part) // REPLIES


def test_all_replies_are_different_and_no_opening_is_a_template(rows):
    texts = [words(row["pair"]) for row in rows]
    assert len({" ".join(text) for text in texts}) == len(rows)
    opening, count = Counter(tuple(text[:3]) for text in texts).most_common(1)[0]
    assert count < 0.03 * len(rows), opening
    bags = map(frozenset, texts)
    assert not [
        pair for pair in itertools.combinations(bags, 2) if len(pair[0] & pair[1]) > 0.6 * len(pair[0] | pair[1])
    ]


def test_the_longer_reply_is_often_but_not_always_the_better_one(rows):
    contexts = [row["context"] for row in rows]
    pairs = pairs_of(contexts, [row["labels"][4] for row in rows])
    lengths = [len(words(row["pair"])) for row in rows]
    assert 0.6 < pair_accuracy(lengths, pairs, contexts)["value"] < 0.8


def test_a_bag_of_words_finds_it_neither_hopeless_nor_trivial(rows, ratings):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[?!]"), Ridge())
    groups = [row["context"] for row in rows]
    predicted = cross_val_predict(model, [row["pair"] for row in rows], ratings, groups=groups, cv=GroupKFold(5))
    found = [np.corrcoef(predicted[:, k], ratings[:, k])[0, 1] for k in range(5)]
    assert min(found) > 0.4 and max(found) < 0.85

"""The embedded pairs for EPITOME: size, splits, spread of the levels, variety, difficulty."""

import itertools
import re
from collections import Counter

import pytest

from empathy_trl.data import read_split
from empathy_trl.data.labelled import MECHANISMS
from tests.data.sections import data_section

SIZES = {"train": 216, "valid": 24, "test": 30}
RESPONSES = 6  # to a seeker post


@pytest.fixture(scope="module")
def parts():
    return {split: read_split(data_section("epitome", "sample"), split)[0] for split in SIZES}


@pytest.fixture(scope="module")
def rows(parts):
    return [row for part in parts.values() for row in part]


def words(text):
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())


@pytest.mark.parametrize("split", SIZES)
def test_size(split):
    rows, report = read_split(data_section("epitome", "sample"), split)
    assert len(rows) == SIZES[split]
    assert not report.dropped and not report.shortened
    assert set(Counter(row["text"] for row in rows).values()) == {RESPONSES}


def test_no_seeker_post_is_in_two_parts(parts):
    seekers = [{row["text"] for row in part} for part in parts.values()]
    assert sum(map(len, seekers)) == len(set.union(*seekers)) == sum(SIZES.values()) // RESPONSES


@pytest.mark.parametrize("number, mechanism", enumerate(MECHANISMS), ids=MECHANISMS)
def test_levels_are_well_spread(rows, parts, number, mechanism):
    counts = Counter(row["labels"][number] for row in rows)
    assert min(counts[level] for level in range(3)) >= 0.18 * len(rows)
    for part in parts.values():
        assert {row["labels"][number] for row in part} == {0, 1, 2}


def test_no_mechanism_follows_from_another(rows):
    pairs = Counter(tuple(row["labels"]) for row in rows)
    assert len(pairs) >= 20
    assert max(pairs.values()) <= 0.2 * len(rows)


def test_lengths(rows):
    posts, responses = {row["text"] for row in rows}, [row["pair"] for row in rows]
    assert [post for post in posts if not 15 <= len(words(post)) <= 45] == []
    assert [response for response in responses if not 5 <= len(words(response)) <= 30] == []


def test_all_responses_are_different_and_no_opening_is_a_template(rows):
    texts = [words(row["pair"]) for row in rows]
    assert len({" ".join(text) for text in texts}) == len(rows)
    opening, count = Counter(tuple(text[:3]) for text in texts).most_common(1)[0]
    assert count < 0.03 * len(rows), opening
    close = [
        pair
        for pair in itertools.combinations(map(frozenset, texts), 2)
        if len(pair[0] & pair[1]) > 0.6 * len(pair[0] | pair[1])
    ]
    assert close == []


def test_a_level_is_not_the_length_of_the_response(rows):
    import numpy as np

    lengths = [len(words(row["pair"])) for row in rows]
    for number, mechanism in enumerate(MECHANISMS):
        correlation = np.corrcoef(lengths, [row["labels"][number] for row in rows])[0, 1]
        assert abs(correlation) < 0.35, mechanism


@pytest.mark.parametrize("number, mechanism", enumerate(MECHANISMS), ids=MECHANISMS)
def test_a_bag_of_words_finds_it_neither_hopeless_nor_trivial(rows, number, mechanism):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline

    tokens = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[?!]")
    model = make_pipeline(tokens, LogisticRegression(max_iter=1000, C=10))
    labels, groups = [row["labels"][number] for row in rows], [row["text"] for row in rows]
    scores = cross_val_score(model, [row["pair"] for row in rows], labels, groups=groups, cv=GroupKFold(5))
    majority = max(Counter(labels).values()) / len(rows)
    assert majority + 0.03 < scores.mean() < 0.9

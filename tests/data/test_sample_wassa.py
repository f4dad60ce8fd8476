"""The embedded rated conversations: size, form, spread of the ratings, variety, difficulty."""

import csv
import itertools
import re
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest

DIMENSIONS = {"Emotion": 5, "EmotionalPolarity": 2, "Empathy": 5}
COLUMNS = ["conversation_id", "turn_id", "speaker_id", "text", *DIMENSIONS]


@pytest.fixture(scope="module")
def rows():
    with (
        files("empathy_trl.data").joinpath("sample/wassa/conversations.csv").open(encoding="utf-8", newline="") as file
    ):
        return list(csv.DictReader(file, strict=True))


@pytest.fixture(scope="module")
def conversations(rows):
    return {key: list(turns) for key, turns in itertools.groupby(rows, lambda row: row["conversation_id"])}


@pytest.fixture(scope="module")
def ratings(rows):
    return {name: np.array([float(row[name]) for row in rows]) for name in DIMENSIONS}


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def pearson(left, right):
    return np.corrcoef(left, right)[0, 1]


def test_size(rows, conversations):
    assert all(list(row) == COLUMNS for row in rows)
    assert len(conversations) == 121 and len(rows) == 982
    assert list(conversations) == [str(number) for number in range(1, 122)]


def test_turns_are_numbered_and_speakers_alternate(conversations):
    for key, turns in conversations.items():
        assert 6 <= len(turns) <= 10, key
        assert [row["turn_id"] for row in turns] == [str(number) for number in range(len(turns))], key
        assert [row["speaker_id"] for row in turns] == [str(number % 2 + 1) for number in range(len(turns))], key


def test_texts_are_5_to_40_words_and_all_different(rows):
    assert [row["text"] for row in rows if not 5 <= len(words(row["text"])) <= 40] == []
    assert len({" ".join(words(row["text"])) for row in rows}) == len(rows)


@pytest.mark.parametrize("name, top", DIMENSIONS.items())
def test_ratings_stay_in_range_and_on_the_grid(ratings, name, top):
    assert ratings[name].min() >= 0 and ratings[name].max() <= top
    sixths = ratings[name] * 6  # halves and thirds, written with two decimals
    assert np.abs(sixths - sixths.round()).max() < 0.03


def test_spread_of_the_ratings(ratings):
    assert 2.0 <= ratings["Empathy"].mean() <= 2.4
    assert ratings["Empathy"].std() >= 1.3
    counts, _ = np.histogram(ratings["Empathy"], bins=[0, 1, 2, 3, 4, 5])
    assert counts.min() >= 0.1 * len(ratings["Empathy"])
    assert ratings["Empathy"].min() == 0 and ratings["Empathy"].max() >= 4.6
    assert ratings["Emotion"].std() >= 0.9 and ratings["EmotionalPolarity"].std() >= 0.4


def test_emotion_and_empathy_are_related_but_not_the_same(ratings):
    emotion, empathy = ratings["Emotion"], ratings["Empathy"]
    assert 0.45 <= pearson(emotion, empathy) <= 0.7
    assert sum((emotion >= 3) & (empathy < 1)) >= 20  # angry or overjoyed about oneself
    assert sum((emotion < 2) & (empathy >= 3.5)) >= 80  # understands quietly


def test_length_does_not_give_the_empathy_away(rows, ratings):
    lengths = [len(words(row["text"])) for row in rows]
    assert abs(pearson(lengths, ratings["Empathy"])) <= 0.25


def test_enough_warm_answers(conversations):
    answers = [row for turns in conversations.values() for row in turns[1:]]
    assert sum(float(row["Empathy"]) >= 3.5 for row in answers) >= 350


def test_about_every_third_conversation_has_a_cold_speaker(conversations):
    """Cold: at least two turns of Empathy and Emotion below 1."""
    cold = 0
    for turns in conversations.values():
        calm = Counter(r["speaker_id"] for r in turns if float(r["Empathy"]) < 1 and float(r["Emotion"]) < 1)
        cold += max(calm.values(), default=0) >= 2
    assert 0.25 <= cold / len(conversations) <= 0.5


def test_no_opening_and_no_trigram_dominates(rows):
    openings = Counter(tuple(words(row["text"])[:3]) for row in rows)
    trigrams = Counter(
        gram for row in rows for gram in {*zip(*(words(row["text"])[shift:] for shift in range(3)), strict=False)}
    )
    assert max(openings.values()) / len(rows) < 0.04
    assert max(trigrams.values()) / len(rows) < 0.04


def test_a_bag_of_words_finds_it_neither_hopeless_nor_trivial(rows, ratings):
    """Folds by conversation: no turn is predicted by a model that has seen its neighbours."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    texts = np.array([row["text"] for row in rows])
    targets = np.stack(list(ratings.values()), axis=1)
    groups = [int(row["conversation_id"]) for row in rows]
    correlations = []
    for train, test in GroupKFold(5).split(texts, targets, groups):
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), Ridge())
        predicted = model.fit(texts[train], targets[train]).predict(texts[test])
        correlations.append([pearson(predicted[:, k], targets[test, k]) for k in range(3)])
    emotion, polarity, empathy = np.mean(correlations, axis=0)
    assert 0.5 <= empathy <= 0.85
    assert emotion >= 0.3 and polarity >= 0.2

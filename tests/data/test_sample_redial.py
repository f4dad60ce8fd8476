"""The embedded film dialogues: size, form, balance, variety, and references that earn what the rewards pay."""

import itertools
import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from empathy_trl.data import build
from empathy_trl.recipe import Data
from empathy_trl.rewards.format import FormatPenalty
from empathy_trl.rewards.recommendation import Recommendation

SIZES = {"train": (128, 282), "valid": (16, 35), "test": (16, 35)}  # dialogues, answers


@pytest.fixture(scope="module")
def dialogues():
    folder = files("empathy_trl.data").joinpath("sample/redial")
    lines = [line for split in SIZES for line in folder.joinpath(f"{split}.jsonl").read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def texts(dialogues):
    return [message["text"] for dialogue in dialogues for message in dialogue["messages"]]


def words(text):
    return re.findall(r"[a-z0-9']+", re.sub(r"@\d+", "<movie>", text).lower())


def test_form(dialogues):
    assert [dialogue["conversation_id"] for dialogue in dialogues] == [str(number) for number in range(1, 161)]
    for dialogue in dialogues:
        assert list(dialogue) == ["conversation_id", "messages", "movies", "liked"]
        assert 4 <= len(dialogue["messages"]) <= 8
        mentioned = re.findall(r"@(\d+)", " ".join(message["text"] for message in dialogue["messages"]))
        assert set(mentioned) == set(dialogue["movies"]) >= set(dialogue["liked"])
    assert len({title for dialogue in dialogues for title in dialogue["movies"].values()}) == 58


@pytest.mark.parametrize("split", SIZES)
def test_half_of_the_answers_recommend(split):
    rows = build(Data(name="redial"), split, "grpo")
    dialogues, answers = SIZES[split]
    assert (len(set(rows["conversation"])), len(rows)) == (dialogues, answers)
    assert 0.45 <= sum(rows["recommends"]) / len(rows) <= 0.55


def test_likes_dislikes_and_openings_occur(dialogues):
    assert Counter(like for dialogue in dialogues for like in dialogue["liked"].values()) == {1: 197, 2: 19, 0: 10}
    assert sum(dialogue["messages"][0]["role"] == "recommender" for dialogue in dialogues) == 31


def test_no_text_no_opening_and_no_trigram_dominates(texts):
    openings = Counter(tuple(words(text)[:3]) for text in texts)
    trigrams = Counter(gram for text in texts for gram in {*zip(*(words(text)[n:] for n in range(3)), strict=False)})
    assert len(set(texts)) >= len(texts) - 4
    assert max(openings.values()) / len(texts) < 0.01
    assert max(trigrams.values()) / len(texts) < 0.01


def test_distinct_2(texts):
    bigrams = [pair for text in texts for pair in itertools.pairwise(words(text))]
    assert len(set(bigrams)) / len(bigrams) >= 0.7


@pytest.mark.parametrize("slots", ["placeholder", "title"])
def test_references_earn_the_top(slots):
    rows = build(Data(name="redial", slots=slots), "train", "grpo")
    columns = {name: list(rows[name]) for name in rows.column_names if name != "prompt"}
    references = columns["reference"]
    assert set(FormatPenalty()(None, references)) == {0.0}
    assert set(Recommendation(slots=slots)(None, references, **columns)) == {1.0}


def test_references_recommend_what_is_liked():
    rows = build(Data(name="redial", slots="title"), "train", "grpo")
    columns = {name: list(rows[name]) for name in rows.column_names if name != "prompt"}
    earned = Recommendation(mode="liked", slots="title")(None, columns["reference"], **columns)
    applies = [reward for reward in earned if reward is not None]
    assert len(applies) > 150 and sum(applies) / len(applies) > 0.75

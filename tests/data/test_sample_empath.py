"""The embedded dialogues that react, respond and reflect: size, balance, form, variety."""

import itertools
import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from empathy_trl.data import build
from empathy_trl.data.labelled import EMOTIONS
from empathy_trl.recipe import Data
from empathy_trl.rewards.explain import explain_rewards
from empathy_trl.tags import read_parts

SIZES = {"train": (48, 250), "valid": (16, 86), "test": (16, 84)}  # dialogues, the assistant's turns
BOUNDS = {"user": (5, 32), "react": (4, 16), "respond": (30, 55), "reflect": (20, 36)}  # words


@pytest.fixture(scope="module")
def dialogues():
    folder = files("empathy_trl.data").joinpath("sample/empath")
    return {
        split: [json.loads(line) for line in folder.joinpath(f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in SIZES
    }


@pytest.fixture(scope="module")
def texts(dialogues):
    """Role or part -> its texts."""
    found = {name: [] for name in BOUNDS}
    for message in (message for part in dialogues.values() for row in part for message in row["messages"]):
        said = {"user": message["content"]} if message["role"] == "user" else read_parts(message["content"])
        for name, text in said.items():
            found[name].append(text)
    return found


def words(text):
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())


@pytest.mark.parametrize("split", SIZES)
def test_size(dialogues, split):
    rows, turns = dialogues[split], SIZES[split]
    assert (len(rows), sum(len(row["messages"]) // 2 for row in rows)) == turns
    assert {len(row["messages"]) // 2 for row in rows} <= {4, 5, 6, 7, 8}
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)


def test_balance(dialogues):
    emotions = {split: Counter(row["emotion"] for row in rows) for split, rows in dialogues.items()}
    assert set(emotions["train"]) == set(EMOTIONS) and set(emotions["train"].values()) == {1, 2}
    assert set(emotions["valid"].values()) == set(emotions["test"].values()) == {1}
    assert not set(emotions["valid"]) & set(emotions["test"])
    ids = [row["conversation_id"] for rows in dialogues.values() for row in rows]
    assert sorted(ids) == [f"dialogue_{number:03d}" for number in range(1, 81)]


@pytest.mark.parametrize("name", BOUNDS)
def test_lengths_and_openings(texts, name):
    low, high = BOUNDS[name]
    assert [text for text in texts[name] if not low <= len(words(text)) <= high] == []
    opening, count = Counter(tuple(words(text)[:3]) for text in texts[name]).most_common(1)[0]
    assert count < 0.02 * len(texts[name]), opening


def test_a_reaction_is_an_expression_and_a_posture(texts):
    assert [text for text in texts["react"] if not re.fullmatch(r"\*[^*+\n]+\* \+ \*[^*+\n]+\*", text)] == []


def test_no_text_is_there_twice_and_no_two_share_most_of_their_words(texts):
    everything = [text for name in ("user", "respond", "reflect") for text in texts[name]]
    bags = [frozenset(words(text)) for text in everything]
    assert len(set(everything)) == len(everything) == 3 * 420
    assert not [
        pair for pair in itertools.combinations(bags, 2) if len(pair[0] & pair[1]) > 0.6 * len(pair[0] | pair[1])
    ]


def test_gold_turns_are_at_or_near_the_top_of_the_rewards_for_three_parts():
    rows = build(Data(name="empath"), "train", "grpo")
    columns = {name: list(rows[name]) for name in ("next_user", "other_users")}
    floors = {"stage_format": 1.0, "reaction": 0.93, "response": 0.97, "reflection": 0.86, "foresight": 0.57}
    means = explain_rewards({name: {} for name in floors}, list(rows["prompt"]), list(rows["turn"]), **columns).means
    assert not {name: means[name] for name, floor in floors.items() if means[name] < floor}

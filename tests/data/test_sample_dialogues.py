"""The embedded dialogues: size, balance, variety, and replies that the rewards for replies like."""

import itertools
import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from empathy_trl.data import build, read_split
from empathy_trl.data.labelled import EMOTIONS
from empathy_trl.recipe import Data
from empathy_trl.rewards.format import Length, SentenceEnd
from empathy_trl.rewards.ngrams import Bleu
from empathy_trl.rewards.safety import Safety

SIZES = {"train": 192, "valid": 48, "test": 48}  # listener's turns


@pytest.fixture(scope="module")
def conversations():
    folder = files("empathy_trl.data").joinpath("sample/dialogues")
    return {
        split: [json.loads(line) for line in folder.joinpath(f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in SIZES
    }


@pytest.fixture(scope="module")
def texts(conversations):
    return [turn["text"] for part in conversations.values() for row in part for turn in row["utterances"]]


def words(text):
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())


@pytest.mark.parametrize("split", SIZES)
def test_size(split):
    rows, report = read_split(Data(name="dialogues"), split)
    assert len(rows) == SIZES[split] and not report.dropped and not report.shortened
    assert {row["emotion"] for row in rows} == set(EMOTIONS)


def test_balance_and_form(conversations):
    for split, count in (("train", 4), ("valid", 1), ("test", 1)):
        assert Counter(row["emotion"] for row in conversations[split]) == dict.fromkeys(EMOTIONS, count)
    everything = [row for part in conversations.values() for row in part]
    assert Counter(len(row["utterances"]) for row in everything) == {2: 96, 4: 96}
    for row in everything:
        assert [turn["speaker"] for turn in row["utterances"]] == ["speaker", "listener"] * (
            len(row["utterances"]) // 2
        )
    assert sorted(row["conv_id"] for row in everything) == list(range(1, 193))


def test_no_utterance_is_there_twice_and_no_two_share_most_of_their_words(texts):
    bags = [frozenset(words(text)) for text in texts]
    assert len(set(texts)) == len(texts) == 576
    assert not [
        pair for pair in itertools.combinations(bags, 2) if len(pair[0] & pair[1]) > 0.6 * len(pair[0] | pair[1])
    ]


def test_lengths_and_openings(texts):
    assert [text for text in texts if not 3 <= len(words(text)) <= 30] == []
    opening, count = Counter(tuple(words(text)[:3]) for text in texts).most_common(1)[0]
    assert count < 0.02 * len(texts), opening


def test_contexts_differ_over_the_splits():
    contexts = [{tuple(row["turns"]) for row in read_split(Data(name="dialogues"), split)[0]} for split in SIZES]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == sum(SIZES.values())


def test_gold_replies_are_at_or_near_the_top_of_the_rewards():
    rows = build(Data(name="dialogues"), "train", "sft")
    columns = {"prompts": rows["prompt"], "completions": rows["completion"], "reference": rows["reference"]}
    assert min(Bleu()(**columns)) == pytest.approx(1) and set(SentenceEnd()(**columns)) == {1.0}
    assert set(Safety()(**columns)) == {0.0} and min(Length(min=3, max=30)(**columns)) == 1.0

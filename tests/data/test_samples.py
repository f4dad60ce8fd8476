"""The embedded corpora: size, balance, form, variety, difficulty, and references that earn what the rewards pay."""

import csv
import itertools
import json
import re
from collections import Counter
from functools import cache
from importlib.resources import files

import numpy as np
import pytest

from empathy_trl.data import build, read_split, targets
from empathy_trl.data.ed4 import LABELS
from empathy_trl.data.labelled import EMOTIONS, INTENTS, MECHANISMS
from empathy_trl.evaluation.metrics.agreement import pair_accuracy
from empathy_trl.models.label_schema import pairs_of
from empathy_trl.recipe import Data
from empathy_trl.rewards.explain import explain_rewards
from empathy_trl.rewards.format import FormatPenalty, Length, SentenceEnd
from empathy_trl.rewards.ngrams import Bleu
from empathy_trl.rewards.recommendation import Recommendation
from empathy_trl.rewards.safety import Safety
from empathy_trl.tags import read_parts

SPLITS = ("train", "valid", "test")
# corpus -> rows of each split
SIZES = {
    "ed4": (560, 120, 120),
    "emotions": (32 * 16, 32 * 3, 32 * 3),
    "intents": (9 * 36, 9 * 7, 9 * 7),
    "epitome": (216, 24, 30),
    "redial": (282, 35, 35),
    "empath": (250, 86, 84),
    "dialogues": (192, 48, 48),
    "rated_replies": (160, 40, 40),
}


@cache
def good_rows(name, split):
    return read_split(Data(name=name, split_by="row" if name == "wassa" else "given"), split)


@cache
def every_row(name):
    return [row for split in SPLITS for row in good_rows(name, split)[0]]


@cache
def dialogues(name, split=None):
    """Return the rows of the files as they stand there, of one split or of all."""
    folder = files("empathy_trl.data").joinpath(f"sample/{name}")
    splits = [split] if split else SPLITS
    lines = [line for each in splits for line in folder.joinpath(f"{each}.jsonl").read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


@cache
def turns():
    with (
        files("empathy_trl.data").joinpath("sample/wassa/conversations.csv").open(encoding="utf-8", newline="") as file
    ):
        return list(csv.DictReader(file, strict=True))


def parts_of_turns(name):
    replies = [message["content"] for row in dialogues("empath") for message in row["messages"][1::2]]
    return [read_parts(reply)[name] for reply in replies]


# name of a kind of text -> its texts
TEXTS = {
    "ed4": lambda: [row["text"] for row in every_row("ed4")],
    "emotions": lambda: [row["text"] for row in every_row("emotions")],
    "intents": lambda: [row["text"] for row in every_row("intents")],
    "seeker posts": lambda: sorted({row["text"] for row in every_row("epitome")}),
    "responses": lambda: [row["pair"] for row in every_row("epitome")],
    "wassa": lambda: [row["text"] for row in turns()],
    "redial": lambda: [message["text"] for row in dialogues("redial") for message in row["messages"]],
    "empath users": lambda: [message["content"] for row in dialogues("empath") for message in row["messages"][::2]],
    "react": lambda: parts_of_turns("react"),
    "respond": lambda: parts_of_turns("respond"),
    "reflect": lambda: parts_of_turns("reflect"),
    "dialogues": lambda: [turn["text"] for row in dialogues("dialogues") for turn in row["utterances"]],
    "rated replies": lambda: [row["pair"] for row in every_row("rated_replies")],
}


def words(text):
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", re.sub(r"@\d+", "movie", text).lower())


@pytest.mark.parametrize("name", SIZES)
def test_size(name):
    reports = [good_rows(name, split)[1] for split in SPLITS]
    assert tuple(len(good_rows(name, split)[0]) for split in SPLITS) == SIZES[name]
    assert not any(report.dropped or (report.shortened and name != "empath") for report in reports)


@pytest.mark.parametrize(
    ("kind", "shortest", "longest", "of_one_opening", "shared_words"),
    [
        ("ed4", 6, 40, 0.05, None),
        ("emotions", 8, 30, 0.05, 0.6),
        ("intents", 4, 20, 0.05, 0.6),
        ("seeker posts", 15, 45, 0.1, 0.6),
        ("responses", 5, 30, 0.03, 0.6),
        ("wassa", 4, 40, 0.04, None),
        ("redial", 1, 40, 0.01, None),
        ("empath users", 5, 32, 0.02, 0.6),
        ("react", 4, 16, 0.02, None),
        ("respond", 30, 55, 0.02, 0.6),
        ("reflect", 20, 36, 0.02, 0.6),
        ("dialogues", 3, 30, 0.02, 0.6),
        ("rated replies", 1, 40, 0.03, 0.6),
    ],
)
def test_texts_differ_in_wording_and_have_a_fair_length(kind, shortest, longest, of_one_opening, shared_words):
    """No opening of three words is a template, and no two texts share most of their words (where these are long enough)."""
    texts = TEXTS[kind]()
    assert [text for text in texts if not shortest <= len(words(text)) <= longest] == []
    opening, count = Counter(tuple(words(text)[:3]) for text in texts).most_common(1)[0]
    assert count < of_one_opening * len(texts), opening
    if kind not in ("redial", "react"):
        assert len({" ".join(words(text)) for text in texts}) == len(texts)
    if shared_words:
        bags = [frozenset(words(text)) for text in texts]
        pairs = itertools.combinations(bags, 2)
        assert [pair for pair in pairs if len(pair[0] & pair[1]) > shared_words * len(pair[0] | pair[1])] == []


@pytest.mark.parametrize(("name", "names"), [("ed4", LABELS), ("emotions", EMOTIONS), ("intents", INTENTS)])
def test_labels_are_balanced(name, names):
    for split, size in zip(SPLITS, SIZES[name], strict=True):
        labels = [row.get("label") or names[row["labels"][0]] for row in good_rows(name, split)[0]]
        assert Counter(labels) == dict.fromkeys(names, size // len(names))


@pytest.mark.parametrize("portion", [(0.0, 0.17), (0.17, 0.5), (0.5, 1.0)])
def test_every_portion_of_ed4_has_all_emotions_in_similar_numbers(portion):
    rows, _ = read_split(Data(name="ed4", portion=portion), "train")
    assert min(Counter(row["label"] for row in rows)[label] for label in LABELS) >= 0.15 * len(rows)


@pytest.mark.parametrize(("name", "column"), [("epitome", "text"), ("rated_replies", "context")])
def test_what_is_replied_to_is_in_one_part_only(name, column):
    parts = [Counter(row[column] for row in good_rows(name, split)[0]) for split in SPLITS]
    assert len({*itertools.chain(*parts)}) == sum(map(len, parts))
    assert {count for part in parts for count in part.values()} == {6 if name == "epitome" else 5}


# How hard they are: a bag of words finds them neither hopeless nor trivial


def bag_of_words(model):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    # Words of one letter and the marks ? and ! count too: "I" and a question mark say much about an intent.
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[?!]"), model)


@pytest.mark.parametrize(("name", "low", "high"), [("ed4", 0.55, 0.9), ("emotions", 0.2, 0.7), ("intents", 0.5, 0.9)])
def test_labels_are_neither_hopeless_nor_trivial(name, low, high):
    from sklearn.linear_model import LogisticRegression

    train, test = (
        zip(*((row["text"], str(row.get("label") or row["labels"])) for row in good_rows(name, split)[0]), strict=True)
        for split in ("train", "test")
    )
    model = bag_of_words(LogisticRegression(max_iter=1000)).fit(*map(list, train))
    assert low <= model.score(*map(list, test)) <= high


def test_levels_of_epitome_are_spread_and_neither_hopeless_nor_trivial():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score

    rows = every_row("epitome")
    combinations = Counter(tuple(row["labels"]) for row in rows)
    assert len(combinations) >= 20 and max(combinations.values()) <= 0.2 * len(rows)  # none follows from another
    lengths, groups = [len(words(row["pair"])) for row in rows], [row["text"] for row in rows]
    for number, mechanism in enumerate(MECHANISMS):
        levels = [row["labels"][number] for row in rows]
        assert min(Counter(levels)[level] for level in range(3)) >= 0.18 * len(rows), mechanism
        assert abs(np.corrcoef(lengths, levels)[0, 1]) < 0.35, mechanism
        model = bag_of_words(LogisticRegression(max_iter=1000, C=10))
        texts = [row["pair"] for row in rows]
        scores = cross_val_score(model, texts, levels, groups=groups, cv=GroupKFold(5))
        assert max(Counter(levels).values()) / len(rows) + 0.03 < scores.mean() < 0.9, mechanism


def correlations(texts, ratings, groups):
    """Return the correlation of each rating with what a ridge regression predicts that has not seen its group."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold, cross_val_predict

    predicted = cross_val_predict(bag_of_words(Ridge()), texts, ratings, groups=groups, cv=GroupKFold(5))
    return [np.corrcoef(predicted[:, k], ratings[:, k])[0, 1] for k in range(ratings.shape[1])]


# WASSA


def test_wassa_has_whole_conversations():
    conversations = {key: list(rows) for key, rows in itertools.groupby(turns(), lambda row: row["conversation_id"])}
    assert list(conversations) == [str(number) for number in range(1, 122)] and len(turns()) == 982
    for key, rows in conversations.items():
        assert 6 <= len(rows) <= 10, key
        assert [row["turn_id"] for row in rows] == [str(number) for number in range(len(rows))], key
        assert [row["speaker_id"] for row in rows] == [str(number % 2 + 1) for number in range(len(rows))], key


def test_ratings_of_wassa_are_spread_and_neither_hopeless_nor_trivial():
    names = {"Emotion": 5, "EmotionalPolarity": 2, "Empathy": 5}
    ratings = np.array([[float(row[name]) for name in names] for row in turns()])
    assert ratings.min() >= 0 and (ratings.max(axis=0) <= list(names.values())).all()
    assert (ratings.std(axis=0) >= [0.9, 0.4, 1.3]).all()
    emotion, _, empathy = ratings.T
    assert np.histogram(empathy, bins=[0, 1, 2, 3, 4, 5])[0].min() >= 0.1 * len(empathy)
    assert 0.45 <= np.corrcoef(emotion, empathy)[0, 1] <= 0.7  # related, but not the same
    assert sum((emotion >= 3) & (empathy < 1)) >= 20 and sum((emotion < 2) & (empathy >= 3.5)) >= 80
    lengths = [len(words(row["text"])) for row in turns()]
    assert abs(np.corrcoef(lengths, empathy)[0, 1]) <= 0.25
    found = correlations([row["text"] for row in turns()], ratings, [row["conversation_id"] for row in turns()])
    assert found[0] >= 0.3 and found[1] >= 0.2 and 0.5 <= found[2] <= 0.85


# Rated replies


def test_ratings_of_replies_are_spread_and_neither_hopeless_nor_trivial():
    rows = list(itertools.chain(*(build(Data(name="rated_replies"), split, "regress") for split in SPLITS)))
    ratings, contexts = np.array([row["labels"] for row in rows]), [row["context"] for row in rows]
    assert list(targets(Data(name="rated_replies"))) == [
        *("empathy", "informativeness", "recommendation", "engagement", "overall")
    ]
    assert set(ratings.ravel()) == {1, 2, 3, 4, 5} and ratings.std(axis=0).min() > 1.3
    between = np.corrcoef(ratings.T)
    assert abs(between[0, 1]) < 0.3 and (between[4, :4] > 0.6).all() and (between[4, :4] < 0.9).all()
    named = np.array(["<movie>" in row["pair"] for row in rows])  # tells nothing about empathy
    assert named.any() and abs(ratings[named, 0].mean() - ratings[~named, 0].mean()) < 0.1
    pairs = pairs_of(contexts, ratings[:, 4].tolist())
    assert {contexts[better] for better, _ in pairs} == set(contexts)  # each has replies to compare
    lengths = [len(words(row["pair"])) for row in rows]
    assert 0.6 < pair_accuracy(lengths, pairs, contexts)["value"] < 0.8  # the longer one is often the better
    found = correlations([row["pair"] for row in rows], ratings, contexts)
    assert min(found) > 0.4 and max(found) < 0.85


# Dialogues: their form, and references at or near the top of the rewards


def test_emotions_of_dialogues_are_balanced():
    for split, count in zip(SPLITS, (4, 1, 1), strict=True):
        emotions = Counter(row["emotion"] for row in dialogues("dialogues", split))
        assert emotions == dict.fromkeys(EMOTIONS, count)
    empath = [Counter(row["emotion"] for row in dialogues("empath", split)) for split in SPLITS]
    assert set(empath[0]) == set(EMOTIONS) and not set(empath[1]) & set(empath[2])
    assert [max(part.values()) for part in empath] == [2, 1, 1]


def test_speakers_take_turns():
    for row in dialogues("dialogues"):
        assert [turn["speaker"] for turn in row["utterances"]] in (["speaker", "listener"], ["speaker", "listener"] * 2)
    for row in dialogues("empath"):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and 8 <= len(roles) <= 16
    react = TEXTS["react"]()
    assert [text for text in react if not re.fullmatch(r"\*[^*+\n]+\* \+ \*[^*+\n]+\*", text)] == []


def test_films_are_named_liked_and_recommended():
    for row in dialogues("redial"):
        assert list(row) == ["conversation_id", "messages", "movies", "liked"] and 4 <= len(row["messages"]) <= 8
        named = re.findall(r"@(\d+)", " ".join(message["text"] for message in row["messages"]))
        assert set(named) == set(row["movies"]) >= set(row["liked"])
    likes = Counter(like for row in dialogues("redial") for like in row["liked"].values())
    assert likes == {1: 197, 2: 19, 0: 10}
    assert sum(row["messages"][0]["role"] == "recommender" for row in dialogues("redial")) == 31
    for split in SPLITS:
        recommends = [row["recommends"] for row in good_rows("redial", split)[0]]
        assert 0.45 <= sum(recommends) / len(recommends) <= 0.55


@pytest.mark.parametrize("slots", ["placeholder", "title"])
def test_recommenders_earn_the_top(slots):
    rows = build(Data(name="redial", slots=slots), "train", "grpo")
    columns = {name: list(rows[name]) for name in rows.column_names if name != "prompt"}
    assert set(FormatPenalty()(None, columns["reference"])) == {0.0}
    assert set(Recommendation(slots=slots)(None, columns["reference"], **columns)) == {1.0}
    liked = Recommendation(mode="liked", slots="title")(None, columns["reference"], **columns)
    applies = [reward for reward in liked if reward is not None]
    assert slots == "placeholder" or (len(applies) > 150 and sum(applies) / len(applies) > 0.75)


def test_listeners_earn_the_top():
    rows = build(Data(name="dialogues"), "train", "sft")
    columns = {"prompts": rows["prompt"], "completions": rows["completion"], "reference": rows["reference"]}
    assert min(Bleu()(**columns)) == pytest.approx(1) and set(SentenceEnd()(**columns)) == {1.0}
    assert set(Safety()(**columns)) == {0.0} and min(Length(min=3, max=30)(**columns)) == 1.0


def test_turns_in_three_parts_are_near_the_top():
    rows = build(Data(name="empath"), "train", "grpo")
    columns = {name: list(rows[name]) for name in ("next_user", "other_users")}
    floors = {"stage_format": 1.0, "reaction": 0.93, "response": 0.97, "reflection": 0.86, "foresight": 0.57}
    means = explain_rewards({name: {} for name in floors}, list(rows["prompt"]), list(rows["turn"]), **columns).means
    assert not {name: means[name] for name, floor in floors.items() if means[name] < floor}

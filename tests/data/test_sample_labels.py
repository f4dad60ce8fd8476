"""The embedded corpora for classifiers (32 emotions, nine response intents): size, balance, variety, difficulty."""

import json
import re
from collections import Counter
from importlib.resources import files

import pytest

SPLITS = ("train", "valid", "test")
EMOTIONS = (  # one string reads better here than 32 lines of one word
    "afraid angry annoyed anticipating anxious apprehensive ashamed caring confident content devastated disappointed "
    "disgusted embarrassed excited faithful furious grateful guilty hopeful impressed jealous joyful lonely nostalgic "
    "prepared proud sad sentimental surprised terrified trusting"
)
INTENTS = "agreeing acknowledging encouraging consoling sympathizing suggesting questioning wishing neutral"
# corpus -> its labels, rows of a label in train / valid / test, shortest and longest text in words
CORPORA = {
    "emotions": (EMOTIONS, (16, 3, 3), (8, 30)),
    "intents": (INTENTS, (36, 7, 7), (4, 20)),
}


def read(corpus, split):
    text = files("empathy_trl.data").joinpath(f"sample/{corpus}/{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def everything(corpus):
    return [row for split in SPLITS for row in read(corpus, split)]


def words(text):
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("split", SPLITS)
def test_size_and_balance(corpus, split):
    labels, sizes, _ = CORPORA[corpus]
    rows = read(corpus, split)
    assert all(set(row) == {"text", "label"} for row in rows)
    assert Counter(row["label"] for row in rows) == dict.fromkeys(labels.split(), sizes[SPLITS.index(split)])


@pytest.mark.parametrize("corpus", CORPORA)
def test_no_text_twice_in_any_part(corpus):
    counts = Counter(" ".join(words(row["text"])) for row in everything(corpus))
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("corpus", CORPORA)
def test_lengths(corpus):
    _, _, (shortest, longest) = CORPORA[corpus]
    assert [row["text"] for row in everything(corpus) if not shortest <= len(words(row["text"])) <= longest] == []


@pytest.mark.parametrize("corpus", CORPORA)
def test_no_opening_is_a_template(corpus):
    openings = Counter(tuple(words(row["text"])[:3]) for row in everything(corpus))
    opening, count = openings.most_common(1)[0]
    assert count / openings.total() < 0.05, opening


@pytest.mark.parametrize("corpus", CORPORA)
def test_no_two_texts_of_a_corpus_share_most_of_their_words(corpus):
    bags = [(set(words(row["text"])), row["text"]) for row in everything(corpus)]
    close = [
        (left, right)
        for index, (bag, left) in enumerate(bags)
        for other, right in bags[:index]
        if len(bag & other) / len(bag | other) > 0.6
    ]
    assert close == []


@pytest.mark.parametrize("corpus, low, high", [("emotions", 0.2, 0.7), ("intents", 0.5, 0.9)])
def test_a_bag_of_words_finds_it_neither_hopeless_nor_trivial(corpus, low, high):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # Words of one letter and the marks ? and ! count too: "I" and a question mark say much about an intent.
    tokens = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[?!]")
    model = make_pipeline(tokens, LogisticRegression(max_iter=1000))
    train, test = read(corpus, "train"), read(corpus, "test")
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    accuracy = model.score([row["text"] for row in test], [row["label"] for row in test])
    assert low <= accuracy <= high

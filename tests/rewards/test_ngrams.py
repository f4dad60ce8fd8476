"""Rewards that count n-grams as tables: `bleu`, `distinct`, `repetition_penalty`."""

import math

import pytest
from sacrebleu.metrics import BLEU

from empathy_trl.errors import UserError
from empathy_trl.rewards.ngrams import Bleu, Distinct, RepetitionPenalty, mean_bleu

# bleu
REFERENCE = "I am so sorry to hear that ."

CASES = [
    (REFERENCE, REFERENCE, 1.0, "the reference itself"),
    ("Yes", "Yes", 1.0, "of one word, there are no 2-grams to miss"),
    ("你好世界", "你好世界", 1.0, "no spaces"),
    ("I am so sorry to hear that.", REFERENCE, 1.0, "spaces around punctuation do not count"),
    ("bananas are yellow", REFERENCE, 0.0, "no word in common"),
    ("a b c d", "a b c d e f", math.exp(1 - 6 / 4), "all right, but shorter: the brevity penalty alone"),
    ("你好", "你好啊", math.exp(1 - 3 / 2), "the same without spaces"),
    ("<movie>", "try <movie>", math.exp(1 - 2 / 1), "a film's slot is one word, not three signs"),
    # 1-grams 2/3; 2-grams 1/2; no 3-gram: smoothed 1/(2·1)
    ("a b x", "a b c", (2 / 3 + (2 / 3 * 1 / 2) ** (1 / 2) + 2 * (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3)) / 4, "by hand"),
]


@pytest.mark.parametrize(("reply", "reference", "expected", "why"), CASES)
def test_bleu_table(reply, reference, expected, why):
    assert Bleu()(["p"], [reply], reference=[reference]) == [pytest.approx(expected)], why


def test_is_the_mean_of_sacrebleus_own_sentence_scores():
    reply, reference = "I am really sorry to hear about that loss .", "I am so sorry to hear that you lost it ."
    scores = [
        BLEU(max_ngram_order=n, effective_order=True, tokenize="none").sentence_score(reply, [reference]).score
        for n in (1, 2, 3, 4)
    ]
    assert 0 < mean_bleu(reply, reference) < 1
    assert mean_bleu(reply, reference) == pytest.approx(sum(scores) / 400)


@pytest.mark.parametrize("reference", [None, "", " \n"])
def test_without_a_reference_it_does_not_apply(reference):
    assert Bleu()(["p", "p"], ["a", "a"], reference=[reference, "a"]) == [None, 1.0]


def test_the_reply_is_read_from_its_tags_in_completion_and_reference():
    tagged = [{"role": "assistant", "content": "<reasoning>She lost it.</reasoning><answer>I am sorry</answer>"}]
    assert Bleu()(["p"] * 2, [tagged, "I am sorry"], reference=["I am sorry", tagged]) == [1.0, 1.0]
    whole = Bleu(reply_tags=[])(["p"], [tagged], reference=["I am sorry"])[0]
    assert 0 < whole < 1


def test_another_column_and_its_absence():
    assert Bleu(column="text")(["p"], ["a"], text=["a"]) == [1.0]
    with pytest.raises(UserError, match="rewards.bleu: needs a column `reference` in the data"):
        Bleu()(["p"], ["a"], text=["a"])
    with pytest.raises(UserError, match="rewards.bleu.column: `text` holds 3; expected a text, chat messages or null"):
        Bleu(column="text")(["p"], ["a"], text=[3])


# distinct
DISTINCT_CASES = [
    ("I am here for you", 2, 1.0, "nothing repeats"),
    ("no no no no no", 2, 1 / 4, "one bigram, four times"),
    ("no No, NO! no no", 2, 1 / 4, "neither case nor punctuation makes a difference"),
    ("a b a b a", 1, 2 / 5, "words"),
    ("a b a b a", 2, 2 / 4, "pairs"),
    ("你好你好", 2, 2 / 3, "no spaces"),
    ("😢😢😢😢", 1, 1 / 4, "emoji"),
    ("no n\u200bo n\u200b\u200bo", 1, 1 / 3, "invisible characters do not make words different"),
    ("yes", 1, 1.0, "one word"),
    ("yes", 2, 0.0, "no bigram in it"),
    ("<answer>no no no</answer>", 2, 1 / 2, "the reply in its tag"),
]


# repetition_penalty
REPETITION_PENALTY_CASES = [
    ("I am here for you", 3, 0.0, "nothing repeats"),
    ("so so so so so so", 3, -3 / 4, "one triple, four times"),
    ("so So, SO! so so so", 1, -5 / 8, "case does not count, punctuation is something else"),
    ("a b c a b c", 3, -1 / 4, "a b c comes back"),
    ("!!!!!!", 3, -3 / 4, "punctuation repeats as well"),
    ("😢😢😢😢😢", 2, -3 / 4, "and emoji"),
    ("哈哈哈哈哈", 3, -2 / 3, "and words without spaces"),
    ("so so", 3, 0.0, "too short to repeat"),
    ("<reasoning>so so so so</reasoning><answer>I see</answer>", 3, 0.0, "the reply only"),
]


TABLES = [
    (kind, *case)
    for kind, cases in ((Distinct, DISTINCT_CASES), (RepetitionPenalty, REPETITION_PENALTY_CASES))
    for case in cases
]


@pytest.mark.parametrize(("kind", "completion", "n", "expected", "why"), TABLES)
def test_repetition_tables(kind, completion, n, expected, why):
    assert kind(n=n)(["p"], [completion]) == [pytest.approx(expected)], why

"""`bleu`: a table of (reply, reference, expected, why), the definition by sacrebleu, and the column it needs."""

import math

import pytest
from sacrebleu.metrics import BLEU

from empathy_trl.errors import UserError
from empathy_trl.rewards.ngrams import Bleu, mean_bleu

REFERENCE = "I am so sorry to hear that ."

CASES = [
    (REFERENCE, REFERENCE, 1.0, "the reference itself"),
    ("Yes", "Yes", 1.0, "of one word, there are no 2-grams to miss"),
    ("你好世界", "你好世界", 1.0, "no spaces"),
    ("I am so sorry to hear that.", REFERENCE, 1.0, "spaces around punctuation do not count"),
    ("bananas are yellow", REFERENCE, 0.0, "no word in common"),
    ("", REFERENCE, 0.0, "empty reply"),
    ("!!!", REFERENCE, 0.0, "no word"),
    ("a b c d", "a b c d e f", math.exp(1 - 6 / 4), "all right, but shorter: the brevity penalty alone"),
    ("你好", "你好啊", math.exp(1 - 3 / 2), "the same without spaces"),
    ("<movie>", "try <movie>", math.exp(1 - 2 / 1), "a film's slot is one word, not three signs"),
    # 1-grams 2/3; 2-grams 1/2; no 3-gram: smoothed 1/(2·1)
    ("a b x", "a b c", (2 / 3 + (2 / 3 * 1 / 2) ** (1 / 2) + 2 * (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3)) / 4, "by hand"),
]


@pytest.mark.parametrize(("reply", "reference", "expected", "why"), CASES)
def test_table(reply, reference, expected, why):
    assert Bleu()(["p"], [reply], reference=[reference]) == [pytest.approx(expected)], why


def test_is_the_mean_of_sacrebleus_own_sentence_scores():
    reply, reference = "I am really sorry to hear about that loss .", "I am so sorry to hear that you lost it ."
    scores = [
        BLEU(max_ngram_order=n, effective_order=True, tokenize="none").sentence_score(reply, [reference]).score
        for n in (1, 2, 3, 4)
    ]
    assert 0 < mean_bleu(reply, reference) < 1
    assert mean_bleu(reply, reference) == pytest.approx(sum(scores) / 400)


def test_more_of_the_reference_earns_more():
    replies = ["that", "sorry to hear", "so sorry to hear that", "I am so sorry to hear that"]
    scores = Bleu()(["p"] * 4, replies, reference=[REFERENCE] * 4)
    assert scores == sorted(scores) and len(set(scores)) == 4


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

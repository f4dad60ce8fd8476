"""What modules return: by hand, and that it is what reports say, whose figures are tested against other implementations."""

import numpy as np
import pytest

from empathy_trl.evaluation.metrics.agreement import score_emotions, score_ratings
from empathy_trl.evaluation.metrics.reply_metrics import corpus_metrics, row_metrics
from empathy_trl.rewards.format import StageFormat
from tests.evaluation.metrics.loaded import load

LABELS = ["sad", "joyful", "angry", "afraid"]
REPLIES = ["so sorry to hear that", "so so sorry", "", "what happened to you", "<movie> and <movie>", "so sorry"]
WHOLE = "<react>r</react><respond>s</respond><reflect>t</reflect>"


def compute(name, **given):
    return load(name).compute(**given)


def test_item_ratio_is_per_reply_that_says_something():
    assert compute("item_ratio", predictions=REPLIES) == {"item_ratio": 2 / 5, "n": 5}
    assert compute("item_ratio", predictions=["@1 or @1", "@1"], placeholder="@1") == {"item_ratio": 1.5, "n": 2}
    assert compute("item_ratio", predictions=["", " "]) == {"item_ratio": None, "n": 0}
    assert compute("item_ratio", predictions=[""], intervals=True) == {"item_ratio": None}


def ratings():
    generator = np.random.default_rng(3)
    gold = generator.integers(1, 6, size=(40, 3)).astype(float)
    return (gold + generator.normal(size=gold.shape)).tolist(), gold.tolist()


def answers():
    generator = np.random.default_rng(4)
    gold = generator.choice(LABELS, 60).tolist()
    return [label if generator.random() < 0.6 else generator.choice([*LABELS, "bored"]) for label in gold], gold


@pytest.mark.parametrize(
    ("completion", "invalid"),
    [
        ("<answer>sad</answer>", 0),
        ("sad, I think", 1),
        ("<answer>sad</answer><answer>sad</answer>", 1),
        ("<answer>sad", 1),
        ("", 1),
    ],
)
def test_an_answer_stands_in_one_tag(completion, invalid):
    found = compute("emotion_accuracy", predictions=[completion], references=["sad"], labels=["sad", "angry"])
    assert found == {"accuracy": 1 - invalid, "macro_f1": (1 - invalid) / 2, "invalid_share": invalid}


@pytest.mark.parametrize(
    ("completion", "adheres", "credit"),
    [
        (WHOLE, 1, 1),
        (f"Well, {WHOLE}", 0, 4 / 5),
        ("<respond>s</respond><react>r</react><reflect>t</reflect>", 0, 3 / 5),
        ("<react>r</react>", 0, 1 / 5),
        ("", 0, 0),
    ],
)
def test_stage_format_gives_credit_for_a_part(completion, adheres, credit):
    found = compute("stage_format", predictions=[completion, WHOLE])
    assert found == {"format_adherence": (adheres + 1) / 2, "format_credit": pytest.approx((credit + 1) / 2)}


def test_intervals_are_those_of_a_report():
    predicted, gold = ratings()
    given, emotions = answers()
    texts = [f"<answer>{each}</answer>" for each in given]
    found = compute("emotion_accuracy", predictions=texts, references=emotions, labels=LABELS, intervals=True)
    report, _, _ = score_emotions(texts, emotions, LABELS)
    assert found == {name: report[name] for name in ("accuracy", "macro_f1", "invalid_share")}
    corpus = corpus_metrics(REPLIES, REPLIES)
    variety = {name: figure for name, figure in corpus.items() if not name.startswith("bleu")}
    assert compute("distinct_n", predictions=REPLIES, intervals=True) == variety
    names = ["a", "b", "c"]
    found = compute("pearson_dims", predictions=predicted, references=gold, names=names, intervals=True)
    assert found == score_ratings(predicted, gold, names)
    counts = row_metrics(REPLIES, REPLIES, "<movie>")["item_ratio"]
    said = [count for count in counts if count is not None]
    found = compute("item_ratio", predictions=REPLIES, intervals=True)["item_ratio"]
    assert (found["value"], found["n"]) == (np.mean(said), len(said))
    assert found["low"] <= found["value"] <= found["high"]
    credit = compute("stage_format", predictions=[WHOLE, "x"], intervals=True)["format_credit"]["value"]
    assert credit == np.mean(StageFormat()(None, [WHOLE, "x"]))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("distinct_n", {"predictions": REPLIES}),
        ("stage_format", {"predictions": [WHOLE, "x", ""]}),
        ("pearson_dims", dict(zip(("predictions", "references"), ratings(), strict=True))),
        ("emotion_accuracy", dict(zip(("predictions", "references"), answers(), strict=True), labels=LABELS, tagged=False)),
    ],
)  # fmt: skip
def test_plain_values_are_those_with_intervals(name, given):
    metric = load(name)
    plain, full = metric.compute(**given), metric.compute(**given, intervals=True)
    assert plain == {key: pytest.approx(figure["value"]) for key, figure in full.items()}

"""Two results side by side: figures against independent computations, and a refusal for whatever cannot be compared."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from empathy_trl.errors import UserError
from empathy_trl.evaluation import base as artefacts
from empathy_trl.evaluation import compare as comparison_page
from empathy_trl.evaluation import replies
from empathy_trl.evaluation.answers import _metrics
from empathy_trl.evaluation.compare import NOT_IN_ROWS, OTHER_REWARD, write_comparison
from empathy_trl.evaluation.metrics.agreement import score_emotions, score_ratings
from empathy_trl.evaluation.metrics.bootstrap import mean_figure, mean_figures, paired_jackknife, paired_statistics
from empathy_trl.evaluation.metrics.reply_classifiers import OTHER_CLASSIFIER
from empathy_trl.evaluation.metrics.reply_metrics import corpus_metrics, row_metrics
from empathy_trl.models.label_schema import Targets
from tests.evaluation.test_plots import png_size

LABELS = ["sad", "joyful", "angry", "afraid"]


def save(folder, kind, rows, split="test", **content):
    about = {"recipe": "r", "stage": folder.name, "model": f"models/{folder.name}", "kind": kind,
             "data": {"source": "sample", "split": split, "n": len(rows)}}  # fmt: skip
    artefacts.write_eval(folder, split, about | content)
    rows = [{"index": 3 * i, "text": f"text {i}"} | row for i, row in enumerate(rows)]
    artefacts.write_predictions(folder, split, rows)
    return folder


def emotions(folder, share, seed, n=200):
    """Write an evaluation of a model that is right in about this share of the rows."""
    gold = [LABELS[i % 4] for i in range(n)]
    draw = np.random.default_rng(seed).random(n)
    said = [label if x < share else ("joyful" if x < 0.97 else "?") for label, x in zip(gold, draw, strict=True)]
    completions = [f"<reasoning>{'so ' * (i % 5)}</reasoning><answer>{word}</answer>" for i, word in enumerate(said)]
    metrics, predictions, confusion = score_emotions(completions, gold, LABELS)
    rows = [{"label": label, "prediction": guess, "correct": guess == label, "grounded": bool(x < 0.5), "completion": completion}
            for label, guess, x, completion in zip(gold, predictions, draw, completions, strict=True)]  # fmt: skip
    metrics["grounded_reasoning"] = mean_figure(draw < 0.5)
    return save(folder, "emotions", rows, metrics=metrics, confusion=confusion)


def ratings(folder, noise, seed=0, n=60):
    generator = np.random.default_rng(seed)
    gold = np.random.default_rng(99).normal(size=(n, 2))
    predicted = gold + noise * generator.normal(size=gold.shape)
    rows = [{"label": dict(zip("xy", wanted, strict=True)), "prediction": dict(zip("xy", given, strict=True)), "error": 0.0}
            for wanted, given in zip(gold.tolist(), predicted.tolist(), strict=True)]  # fmt: skip
    return save(folder, "ratings", rows, metrics=score_ratings(predicted, gold, ["x", "y"]), ratings=["x", "y"])


def two_groups(folder, seed, n=40):
    generator = np.random.default_rng(seed)
    outputs = Targets("classify", {"a": ["0", "1"], "b": ["no", "yes"]})
    gold = [(str(i % 2), ("no", "yes")[i % 3 == 0]) for i in range(n)]
    given = [(str(generator.integers(2)), ("no", "yes")[generator.integers(2)]) for _ in range(n)]
    metrics, confusions = _metrics(given, gold, outputs)
    rows = [{"label": " / ".join(w), "prediction": " / ".join(g), "correct": sum(map(str.__eq__, g, w)) / 2}
            for g, w in zip(given, gold, strict=True)]  # fmt: skip
    return save(folder, "labels", rows, metrics=metrics, confusions=confusions)


WORDS = [
    "i",
    "am",
    "so",
    "sorry",
    "to",
    "hear",
    "that",
    "you",
    "must",
    "feel",
    "very",
    "sad",
    "today",
    "my",
    "friend",
    "what",
    "a",
    "day",
    "it",
    "was",
]


def replied(folder, seed, length, rewards=None, weight=1.0, n=50):
    """Write an evaluation of replies of about this length, with a reward that every third row does not have."""
    generator, other = np.random.default_rng(seed), np.random.default_rng(99)
    said = [" ".join(generator.choice(WORDS, generator.integers(1, length))) for _ in range(n)]
    references = [" ".join(other.choice(WORDS, 8)) for _ in range(n)]
    earned = [None if i % 3 == 0 else float(x) for i, x in enumerate(generator.random(n))]
    level = "epitome_explorations"
    ours, theirs = generator.integers(0, 3, n), other.integers(0, 3, n)
    by_row = {"reward": earned, "reward_length": earned} | row_metrics(said, references)
    by_row |= {level: [float(x) for x in ours], f"{level}_difference": [float(x) for x in ours - theirs]}
    rows = [
        {"completion": reply, "reply": reply, "reference": reference, "rewards": {}, "reward": reward,
         "metrics": {name: replies._plain(values[i]) for name, values in by_row.items()}}
        for i, (reply, reference, reward) in enumerate(zip(said, references, earned, strict=True))
    ]  # fmt: skip
    metrics = mean_figures(by_row) | corpus_metrics(said, references) | {"perplexity": mean_figure([3.0 + seed])}
    metrics[f"{level}_pearson"] = mean_figure([stats.pearsonr(ours, theirs).statistic])
    judged_by = {"length": {"min": 5, "weight": weight, "import": None} | (rewards or {})}
    return save(folder, "replies", rows, metrics=metrics, judged_by=judged_by, left_out={})


@pytest.mark.parametrize(("weights", "refused"), [(("aa", "aa"), False), (("aa", "bb"), True)])
def test_reward_models_are_the_same_if_their_weights_are(weights, refused, tmp_path):
    for name, digest in zip("ab", weights, strict=True):
        judge = {"reward_model": {"model": f"/home/{name}", "weights": digest, "weight": 1.0, "import": None}}
        replied(tmp_path / name, 1, 8, rewards={})
        change_eval(tmp_path / name, judged_by=judge)
    figure = compared(tmp_path / "a", tmp_path / "b", tmp_path / "c")["metrics"]["reward"]
    assert (figure["change"] is None) == refused


def by_classifiers(folder, **models):
    """Write an evaluation of replies by such classifiers (kind -> digest of the weights; none: as files were before)."""
    replied(folder, 1, 8)
    record = {kind: {"model": "outputs/same/name", "weights": weights} for kind, weights in models.items()}
    change_eval(folder, **({"classifiers": record} if models else {}))
    return folder


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [
        ({"epitome": "aa"}, {"epitome": "aa"}, False),
        ({"epitome": "aa"}, {"epitome": "bb"}, True),
        ({"epitome": "aa"}, {}, True),
        ({"epitome": "aa", "intent": "cc"}, {"epitome": "aa"}, False),
        ({}, {}, False),
    ],
)
def test_figures_by_different_classifiers_are_not_compared(one, other, refused, tmp_path):
    a, b = by_classifiers(tmp_path / "a", **one), by_classifiers(tmp_path / "b", **other)
    metrics = compared(a, b, tmp_path / "c")["metrics"]
    for name in ("epitome_explorations", "epitome_explorations_pearson"):
        assert (metrics[name]["note"] == OTHER_CLASSIFIER) is refused and (metrics[name]["p"] is None) is refused
    assert metrics["reference_similarity"]["p"] is not None


def compared(a, b, folder, split="test"):
    write_comparison(a, b, split, folder)
    return json.loads(Path(folder, "compare.json").read_text(encoding="utf-8"))


def simple_p(a, b, statistic, draws=2000, seed=0):
    """The p-value of one statistic, one draw after the other."""
    generator = np.random.default_rng(seed)
    rows = [generator.integers(0, len(a), len(a)) for _ in range(draws)]
    changes = np.array([statistic(b, each) - statistic(a, each) for each in rows])
    tail = min((changes <= 0).sum(), (changes >= 0).sum())
    return min(1, 2 * (tail + 1) / (draws + 1)), np.percentile(changes, [2.5, 97.5])


def test_figures_of_rows_agree_with_an_independent_computation(tmp_path):
    a, b = emotions(tmp_path / "a", 0.5, seed=1), emotions(tmp_path / "b", 0.6, seed=2)
    content = compared(a, b, tmp_path / "out")
    right = [np.array([row["correct"] for row in artefacts.read_predictions(x, "test")], dtype=float) for x in (a, b)]
    found = content["metrics"]["accuracy"]
    assert found["change"] == pytest.approx(right[1].mean() - right[0].mean())
    assert found["relative"] == pytest.approx(right[1].mean() / right[0].mean() - 1)
    p, (low, high) = simple_p(*right, lambda column, rows: column[rows].mean())
    assert [found[key] for key in ("p", "low", "high", "n")] == pytest.approx([p, low, high, 200])
    assert found["p"] == pytest.approx(stats.ttest_rel(right[1], right[0]).pvalue, abs=0.02), "large samples agree"


def plain_macro_f1(pairs):
    shares = []
    for label in LABELS:
        right = sum(gold == given == label for gold, given in pairs)
        shares.append(2 * right / max(1, sum((gold == label) + (given == label) for gold, given in pairs)))
    return sum(shares) / len(shares)


def test_figures_of_the_corpus_agree_with_an_independent_computation(tmp_path):
    a, b = emotions(tmp_path / "a", 0.5, seed=1, n=80), emotions(tmp_path / "b", 0.7, seed=2, n=80)
    found = compared(a, b, tmp_path / "out")["metrics"]["macro_f1"]
    sides = [
        [(row["label"], row["prediction"] or "?") for row in artefacts.read_predictions(x, "test")] for x in (a, b)
    ]
    scores = [f1_score(*zip(*pairs, strict=True), labels=LABELS, average="macro", zero_division=0) for pairs in sides]
    assert found["change"] == pytest.approx(scores[1] - scores[0])
    assert scores == [pytest.approx(plain_macro_f1(pairs)) for pairs in sides]
    p, (low, high) = simple_p(*sides, lambda pairs, rows: plain_macro_f1([pairs[row] for row in rows]))
    assert (found["p"], found["low"], found["high"]) == (pytest.approx(p), pytest.approx(low), pytest.approx(high))


def test_correlations_agree_with_an_independent_computation(tmp_path):
    a, b = ratings(tmp_path / "a", 1.5), ratings(tmp_path / "b", 1.2, seed=1)
    found = compared(a, b, tmp_path / "out")["metrics"]
    assert all(figure["p"] is not None for figure in found.values()) and len(found) == 9
    sides = [np.array([[row[key]["x"] for key in ("label", "prediction")] for row in artefacts.read_predictions(x, "test")])
             for x in (a, b)]  # fmt: skip
    for name, correlation in (("pearson_x", stats.pearsonr), ("spearman_x", stats.spearmanr)):
        p, (low, high) = simple_p(*sides, lambda table, rows, of=correlation: of(*table[rows].T).statistic)
        assert (found[name]["p"], found[name]["low"], found[name]["high"]) == (
            pytest.approx(p), pytest.approx(low), pytest.approx(high))  # fmt: skip


def test_labels_of_several_groups(tmp_path):
    found = compared(two_groups(tmp_path / "a", 0), two_groups(tmp_path / "b", 1), tmp_path / "out")["metrics"]
    assert {"accuracy", "accuracy_a", "macro_f1_b", "recall_yes_b"} <= found.keys()
    assert all(figure["p"] is not None and figure["note"] is None for figure in found.values())


def test_pair_accuracies_are_compared_without_an_interval(tmp_path):
    rows = [{"label": {"x": rating}, "prediction": {"x": 0.0}, "right_share": 0.5} for rating in (1.0, 2.0)]
    a, b = (
        save(tmp_path / name, "pairs", rows, metrics={"pair_accuracy": mean_figure([value])}, ratings=["x"])
        for name, value in (("a", 0.5), ("b", 0.75))
    )
    found = compared(a, b, tmp_path / "out")["metrics"]["pair_accuracy"]
    assert (found["change"], found["p"], found["note"]) == (0.25, None, NOT_IN_ROWS)


def test_replies_have_a_p_value_for_everything_that_can_have_one(tmp_path):
    a, b = replied(tmp_path / "a", 1, 15), replied(tmp_path / "b", 2, 9)
    found = compared(a, b, tmp_path / "out")["metrics"]
    assert {name for name, figure in found.items() if figure["p"] is None} == {"perplexity"}
    assert found["perplexity"]["note"] == NOT_IN_ROWS and found["perplexity"]["change"] == 1
    assert {found[name]["method"] for name in ("distinct_1", "dist_at_4")} == {"jackknife"}
    assert {found[name]["method"] for name in ("bleu_4", "reply_words", "reward", "epitome_explorations_pearson")} == {
        "bootstrap"
    }
    assert found["reward"]["n"] == sum(i % 3 > 0 for i in range(50))
    assert found["reply_words"]["p"] < 0.01 < found["duplicate_share"]["p"]
    for name, figure in found.items():
        if figure["low"] is not None:
            assert figure["low"] <= figure["change"] + 0.05 and figure["high"] >= figure["change"] - 0.05, name
            assert (figure["p"] < 0.05) == (figure["low"] > 0 or figure["high"] < 0) or 0.03 < figure["p"] < 0.07, name


def test_a_reward_that_only_some_rows_have_is_compared_where_both_have_it(tmp_path):
    a, b = replied(tmp_path / "a", 1, 15), replied(tmp_path / "b", 2, 9)
    rows = artefacts.read_predictions(b, "test")
    rows[1]["metrics"]["reward"] = None
    artefacts.write_predictions(b, "test", rows)
    evaluation = artefacts.read_eval(b, "test")
    there = [row["metrics"]["reward"] for row in rows if row["metrics"]["reward"] is not None]
    evaluation["metrics"]["reward"] = mean_figure(there)
    artefacts.write_eval(b, "test", evaluation)
    found = compared(a, b, tmp_path / "out")["metrics"]["reward"]
    assert found["n"] == 32 and found["note"] == "on the 32 rows that have a value in both"
    assert found["b"] == pytest.approx(np.mean(there)) and found["change"] == pytest.approx(found["b"] - found["a"])


@pytest.mark.parametrize(
    ("make", "arguments"), [(emotions, (0.5, 1)), (ratings, (1.0,)), (two_groups, (0,)), (replied, (1, 12))]
)
def test_identical_results_have_p_1_and_no_change(tmp_path, make, arguments):
    a, b = make(tmp_path / "a", *arguments), make(tmp_path / "b", *arguments)
    tested = {k: v for k, v in compared(a, b, tmp_path / "out")["metrics"].items() if v["method"]}
    assert len(tested) >= 9
    assert {(each["change"], each["low"], each["high"], each["p"]) for each in tested.values()} == {(0, 0, 0, 1)}


def test_the_same_results_give_the_same_files(tmp_path):
    a, b = replied(tmp_path / "a", 1, 12), replied(tmp_path / "b", 2, 9)
    for name in ("one", "two"):
        write_comparison(a, b, "test", tmp_path / name)
    for file in ("compare.md", "compare.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    swapped = compared(b, a, tmp_path / "three")["metrics"]["bleu_2"]
    found = compared(a, b, tmp_path / "one")["metrics"]["bleu_2"]
    assert (swapped["change"], swapped["p"]) == (pytest.approx(-found["change"]), found["p"])


def test_the_page_says_what_a_reader_needs(tmp_path):
    a, b = emotions(tmp_path / "a", 0.3, seed=1), emotions(tmp_path / "b", 0.8, seed=2)
    path = write_comparison(a, b, "test", tmp_path / "out")
    text = path.read_text(encoding="utf-8")
    assert "- A: models/a (r / a), " in text and "- B: models/b (r / b), " in text
    assert "| metric | A | B | change, B - A | relative | p | n |" in text
    (line,) = [line for line in text.split("\n") if line.startswith("| accuracy |")]
    assert "< 0.001" in line and "%" in line and "[+" in line and line.endswith("| 200 |")
    assert (
        "13 metrics were compared, and p is not corrected" in text
        and "Bonferroni correction, significance needs p < 0.0038" in text
    )
    width, height = png_size(tmp_path / "out" / "compare.png")
    assert width > 1000 and height > 700


@pytest.mark.faults
def test_names_are_shown_as_they_are_in_a_page(tmp_path):
    one, other = emotions(tmp_path / "a|b <i>", 0.6, 1), emotions(tmp_path / "# *c*", 0.7, 2)
    text = write_comparison(one, other, "test", tmp_path / "out").read_text()
    assert r"a\|b \<i\>" in text and r"\# \*c\*" in text and "<i>" not in text
    assert artefacts.markdown([["a|b"], [r"c\|d"]]) == "| a\\|b |\n|---|\n| c\\|d |"


def test_what_cannot_be_tested_has_a_dash_and_a_footnote(tmp_path):
    a, b = replied(tmp_path / "a", 1, 12), replied(tmp_path / "b", 2, 9)
    evaluation = artefacts.read_eval(b, "test")
    evaluation["metrics"]["new"] = mean_figure([1.0])
    evaluation["metrics"]["reply_words"]["value"] += 1  # the rows say something else
    artefacts.write_eval(b, "test", evaluation)
    found = compared(a, b, tmp_path / "out")["metrics"]
    assert found["new"]["note"] == "only B has it" and found["reply_words"]["note"] == NOT_IN_ROWS
    text = (tmp_path / "out" / "compare.md").read_text()
    assert f"(1) {NOT_IN_ROWS}" in text and "| new (2) | - | 1.000 | - | - | - | - |" in text


@pytest.mark.parametrize(
    ("settings", "without"),
    [
        ({"weight": 2.0}, ["reward"]),
        ({"rewards": {"min": 6}}, ["reward", "reward_length"]),
        ({"rewards": {"model": "other"}}, ["reward", "reward_length"]),
    ],
)
def test_different_rewards_are_not_compared(tmp_path, settings, without):
    a, b = replied(tmp_path / "a", 1, 12), replied(tmp_path / "b", 2, 9, **settings)
    found = compared(a, b, tmp_path / "out")["metrics"]
    assert [name for name, figure in found.items() if figure["note"] == OTHER_REWARD] == without
    assert all(found[name]["change"] is None for name in without) and found["reply_words"]["p"] is not None


def test_replies_of_an_older_version_are_compared_by_their_texts(tmp_path):
    a, b = replied(tmp_path / "a", 1, 12), replied(tmp_path / "b", 2, 9)
    rows = artefacts.read_predictions(b, "test")
    artefacts.write_predictions(b, "test", [row for row in rows if row.pop("metrics")])
    found = compared(a, b, tmp_path / "out")["metrics"]
    assert found["bleu_1"]["p"] is not None and found["distinct_2"]["p"] is not None
    assert found["reward"]["note"] == NOT_IN_ROWS


def test_a_metric_that_was_0_has_no_relative_change(tmp_path):
    a, b = emotions(tmp_path / "a", 0.0, seed=1), emotions(tmp_path / "b", 0.5, seed=2)
    found = compared(a, b, tmp_path / "out")["metrics"]["recall_sad"]
    assert found["a"] == 0 and found["change"] > 0 and found["relative"] is None


def change_row(folder, key, value):
    rows = artefacts.read_predictions(folder, "test")
    rows[2][key] = value
    artefacts.write_predictions(folder, "test", rows)


def change_eval(folder, **changes):
    content = artefacts.read_eval(folder, "test") | changes
    (folder / "eval_test.json").write_text(json.dumps(content))


def drop_rows(folder):
    artefacts.write_predictions(folder, "test", artefacts.read_predictions(folder, "test")[:-2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: change_row(b, "text", "another"), r"row with index 6 has the text 'text 2' in .*a, 'another' in .*b"),
        (lambda b: change_row(b, "label", "sad"), r"row with index 6 has the label 'angry' in .*a, 'sad' in"),
        (lambda b: change_row(b, "index", 7), r"a has 200 rows, .*b has 200, and .*b lacks 1 .*such as index 6; evaluate both"),
        (lambda b: change_row(b, "index", 9), r"predictions_test.jsonl: expected rows with distinct indices"),
        (drop_rows, r"a has 200 rows, .*b has 198, and .*b lacks 2 of the other's, such as index 594"),
        (lambda b: replied(b, 1, 9), r"a is an evaluation of emotions, .*b one of replies; expected the same kind"),
        (lambda b: artefacts.write_eval(b, "test", {"kind": "x"}), r"eval_test.json: is not an evaluation; expected kind, model"),
        (lambda b: artefacts.write_predictions(b, "test", [{"index": 0}]), "row 1: expected an object with index, text and label"),
        (lambda b: artefacts.write_predictions(b, "test", []), "expected rows with distinct indices"),
        (lambda b: (b / "predictions_test.jsonl").unlink(), "predictions_test.jsonl: no such file; evaluate the model first"),
        (lambda b: (b / "eval_test.json").write_text("{"), "eval_test.json, line 1: not valid JSON"),
        (lambda b: (b / "eval_test.json").write_text("[" * 100_000), "eval_test.json, line 1: not valid JSON"),
        (lambda b: (b / "eval_test.json").write_bytes(b"{\xff"), "eval_test.json, line 1: byte 0xff at offset 1 is not UTF-8"),
        (lambda b: (b / "predictions_test.jsonl").write_bytes(b"\xff"), "predictions_test.jsonl, line 1: byte 0xff at offset 0"),
        (lambda b: change_eval(b, metrics={"accuracy": {"value": math.nan}}), r"eval_test.json, line 1: .*NaN is no number"),
        (lambda b: change_eval(b, metrics={"accuracy": {"value": None}}), r"metrics.accuracy is \{'value': None\}; expected a"),
        (lambda b: change_eval(b, metrics={"accuracy": 0.5}), "metrics.accuracy is 0.5; expected a mapping with a number"),
        (lambda b: change_eval(b, metrics=[]), r"eval_test.json: metrics is \[\]; expected a mapping of metrics, at least"),
        (lambda b: change_eval(b, model=None), "eval_test.json: model is null; expected a text"),
        (lambda b: change_eval(b, data="sample"), "eval_test.json: data is 'sample'; expected a mapping with source"),
        (lambda b: change_eval(b, judged_by=["bleu"]), r"eval_test.json: judged_by is \['bleu'\]; expected"),
        (lambda b: change_eval(b, classifiers={"emotion": {"model": "m"}}), r"eval_test.json: classifiers is .*each with weights"),
        (lambda b: change_eval(b, confusion={}), "b: its files are not as an evaluation of emotions writes them"),
        (lambda b: change_row(b, "index", "6"), "predictions_test.jsonl, row 3: index is '6'; expected a whole number"),
        (lambda b: change_row(b, "index", [6]), r"row 3: index is \[6\]; expected a whole number"),
    ],
)  # fmt: skip
def test_what_is_not_the_same_is_refused_by_name(tmp_path, change, message):
    a, b = emotions(tmp_path / "a", 0.5, seed=1), emotions(tmp_path / "b", 0.6, seed=2)
    change(b)
    with pytest.raises(UserError, match=message):
        write_comparison(a, b, "test", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("reply", None, "b: its files are not as an evaluation of replies writes them"),
        ("metrics", "x", "b: its files are not as an evaluation of replies writes them"),
        ("metrics", {"reply_words": "3"}, "b: the row with index 6 has '3' as reply_words"),
    ],
)
def test_rows_of_replies_that_are_none(tmp_path, key, value, message):
    a, b = replied(tmp_path / "a", 1, 9), replied(tmp_path / "b", 2, 9)
    change_row(b, key, value)
    with pytest.raises(UserError, match=message):
        write_comparison(a, b, "test", tmp_path / "out")


def test_rows_are_matched_by_index_whatever_their_order(tmp_path):
    a, b = emotions(tmp_path / "a", 0.5, seed=1), emotions(tmp_path / "b", 0.6, seed=2)
    before = compared(a, b, tmp_path / "one")
    artefacts.write_predictions(b, "test", artefacts.read_predictions(b, "test")[::-1])
    assert compared(a, b, tmp_path / "two") == before


def test_p_is_rarely_small_where_nothing_changed():
    generator, small = np.random.default_rng(0), 0
    for seed in range(200):
        change = generator.normal(size=60)
        (found,) = paired_statistics(lambda rows, c=change: c[rows].mean(axis=-1, keepdims=True), 60, 400, seed)
        small += found["p"] < 0.05
    assert 2 <= small <= 22


def test_of_one_row_nothing_can_be_said():
    for test in (paired_statistics, paired_jackknife):
        (found,) = test(lambda rows: np.ones((*rows.shape[:-1], 1)), 1)
        assert (found["difference"], found["p"]) == (1, 1)


def test_the_jackknife_of_a_mean_is_the_normal_approximation():
    change = np.random.default_rng(3).normal(0.3, 1, 400)
    (found,) = paired_jackknife(lambda rows: change[rows].mean(keepdims=True), 400)
    parts = change.reshape(40, 10).mean(axis=0)
    error = parts.std(ddof=1) / math.sqrt(10)
    assert found["difference"] == pytest.approx(change.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(change.mean()) / error))


def test_a_change_without_any_spread_is_certain():
    found = paired_jackknife(lambda rows: np.array([0.0, 0.5]), 30)
    assert [each["p"] for each in found] == [1, 0]


def test_p_in_words():
    figure = dict.fromkeys(("a", "b", "change", "relative", "low", "high", "n"))
    shown = [comparison_page._cells(figure | {"p": p})[4] for p in (1.0, 0.04999, 0.0004)]
    assert shown == ["1.000", "0.050", "< 0.001"]

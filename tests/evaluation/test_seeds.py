"""Several seeds: the pooled figures against independent computations, and a refusal for whatever cannot be pooled."""

import json

import numpy as np
import pytest
import yaml

from empathy_trl.errors import UserError
from empathy_trl.evaluation import base as artefacts
from empathy_trl.evaluation.compare import compare, read_results
from empathy_trl.evaluation.report import read_stages
from empathy_trl.evaluation.seeds import pooled, summary, write_seeds
from tests.evaluation.test_compare import compared, emotions, replied
from tests.evaluation.test_plots import png_size

SHARES = {"sft": (0.30, 0.35, 0.27), "grpo": (0.66, 0.72, 0.69)}
RECIPE = {"stages": {"sft": {"trainer": {"max_steps": 2}, "seed": 0}, "grpo": {"trainer": {"beta": 0.1}, "seed": 0}}}


def run_of(run, seed, shares=SHARES, n=200):
    """Write the folder of one seed: two stages, with a row of the log each."""
    for number, (stage, share) in enumerate(shares.items()):
        folder = emotions(run / f"seed_{seed}" / stage, share[seed - 1], 10 * seed + number, n)
        change(folder, recipe="ed4_tiny", model=str(folder), baselines={"majority": {"accuracy": {"value": 0.25}}})
        content = json.loads(json.dumps(RECIPE))
        content["stages"][stage]["seed"] = seed
        for place in (folder, folder.parent):
            (place / "recipe.yaml").write_text(yaml.safe_dump({"name": "ed4_tiny", **content}, sort_keys=False))
        (folder / "run.json").write_text('{"train_seconds": 30}')
        (folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.2}\n{"step": 2, "reward": 0.5}\n')


def change(folder, **changes):
    artefacts.write_eval(folder, "test", artefacts.read_eval(folder, "test") | changes)


@pytest.fixture
def run(tmp_path):
    for seed in (1, 2, 3):
        run_of(tmp_path / "ed4_tiny", seed)
    return tmp_path / "ed4_tiny"


def right(run, stage):
    """Whether each answer is right, shape (seeds, rows)."""
    folders = [run / f"seed_{seed}" / stage for seed in (1, 2, 3)]
    return np.array([[row["correct"] for row in artefacts.read_predictions(each, "test")] for each in folders], float)


def slow_draws(values, draws=2000):
    """The mean over seeds and rows, both drawn again, one draw after the other; a draw has one seed fewer than there are."""
    rows, seeds = np.random.default_rng(0), np.random.default_rng(1)
    rows = [rows.integers(0, values.shape[1], values.shape[1]) for _ in range(draws)]
    return np.array([values[np.ix_(seeds.integers(0, len(values), len(values) - 1), each)].mean() for each in rows])


def test_mean_spread_and_interval_over_seeds_and_rows(run):
    content = write_seeds(run, [1, 2, 3])
    assert json.loads((run / "seeds.json").read_text()) == content and content["train_seconds"] == {
        "1": 60,
        "2": 60,
        "3": 60,
    }
    for stage in ("sft", "grpo"):
        values, figure = right(run, stage), content["stages"][stage]["metrics"]["accuracy"]
        assert list(figure["values"].values()) == pytest.approx(values.mean(axis=1))
        assert (figure["value"], figure["sd"]) == pytest.approx((values.mean(), values.mean(axis=1).std(ddof=1)))
        assert (figure["low"], figure["high"]) == pytest.approx(np.percentile(slow_draws(values), [2.5, 97.5]))
    (step,) = content["changes"]
    figure, difference = step["metrics"]["accuracy"], right(run, "grpo") - right(run, "sft")
    assert (step["from"], step["to"]) == ("sft", "grpo") and figure["change"] == pytest.approx(difference.mean())
    assert (figure["low"], figure["high"]) == pytest.approx(np.percentile(slow_draws(difference), [2.5, 97.5]))
    assert list(figure["by_seed"]["change"].values()) == pytest.approx(difference.mean(axis=1)) and figure["p"] < 0.001


def test_report_picture_and_summary(run):
    content = write_seeds(run, [1, 2, 3])
    page, words = (run / "seeds.md").read_text(), summary(run, content)
    change = content["changes"][0]["metrics"]["accuracy"]
    line = f"sft to grpo: {change['change']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}], p < 0.001, established"
    assert line in words and line in page and len(words.splitlines()) <= 10
    assert words.startswith("ed4_tiny, seeds 1, 2, 3: trained in 3 min\ntest accuracy, n = 200: sft 0.")
    assert f"empathy-trl compare {run}/sft {run}/grpo" in words
    assert "| stage | figure | seed 1 | seed 2 | seed 3 | mean | sd | 95 % interval | n |" in page
    assert "[report](seed_2/report.md)" in page and png_size(run / "seeds.png")[0] > 1000


def test_one_seed_has_no_spread(run):
    figure = write_seeds(run, [2])["stages"]["sft"]["metrics"]["accuracy"]
    alone = artefacts.read_eval(run / "seed_2" / "sft", "test")["metrics"]["accuracy"]
    assert figure["sd"] is None and [figure[key] for key in ("value", "low", "high")] == pytest.approx(
        [alone[key] for key in ("value", "low", "high")]
    )


def test_stages_of_all_seeds_are_compared(run, tmp_path):
    steps = write_seeds(run, [1, 2, 3])["changes"][0]["metrics"]
    whole = compared(run / "sft", run / "grpo", tmp_path / "out")
    assert whole["metrics"] == steps and whole["b"]["seeds"] == [1, 2, 3] and whole["b"]["folder"] == str(run / "grpo")
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "change by seed (1, 2, 3)" in page and "hold for a new seed" in page
    assert compare(run / "sft", run)["metrics"] == compare(run / "sft", run / "grpo")["metrics"]  # the last stage


def test_other_seeds_are_drawn_independently(run, tmp_path):
    run_of(tmp_path / "other", 1)
    run_of(tmp_path / "other", 2)
    apart = compared(run, tmp_path / "other", tmp_path / "out")["metrics"]["accuracy"]
    a, b = right(run, "grpo"), right(run, "grpo")[:2]
    assert apart["change"] == pytest.approx(b.mean() - a.mean()) and apart["by_seed"]["change"] is None
    assert "drawn independently" in (tmp_path / "out" / "compare.md").read_text()
    single = compare(run / "seed_1" / "sft", run / "grpo")["metrics"]["accuracy"]  # one result against three
    assert single["change"] == pytest.approx(a.mean() - right(run, "sft")[0].mean())


def test_counts_of_ngrams_have_the_variance_of_the_seeds_too(tmp_path):
    for seed in (1, 2, 3):
        replied(tmp_path / "few" / f"seed_{seed}" / "sft", seed, 8)
        replied(tmp_path / "same" / f"seed_{seed}" / "sft", 1, 8)
    few, same = (pooled(read_results(tmp_path / name / "sft", "test")) for name in ("few", "same"))
    one = pooled({None: read_results(tmp_path / "few" / "seed_1" / "sft", "test")[None]})
    width = lambda figures: figures["distinct_2"]["high"] - figures["distinct_2"]["low"]
    assert width(same) == pytest.approx(width(one)) and few["distinct_2"]["method"] == "jackknife"
    spread = few["distinct_2"]["sd"] / np.sqrt(3)
    assert width(few) > 2 * 1.96 * spread > 0
    assert few["reward"]["n"] < 50 and few["perplexity"]["low"] is None and few["perplexity"]["note"]


def edit_recipe(run):
    path = run / "seed_2" / "sft" / "recipe.yaml"
    path.write_text(path.read_text().replace("max_steps: 2", "max_steps: 3"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit_recipe, r"seed_1/sft/recipe.yaml and .*seed_2/sft/recipe.yaml have different settings: stages.sft.trainer.max_steps"),
        (lambda run: emotions(run / "seed_2" / "grpo", 0.5, 1, n=120), r"seed_1/grpo has 200 rows, .*seed_2/grpo has 120"),
        (lambda run: (run / "seed_3" / "grpo" / "eval_test.json").unlink(), r"seed_3 of sft; expected the same"),
        (lambda run: (run / "seed_3" / "sft" / "predictions_test.jsonl").write_text("{"), "seed_3/sft/predictions_test.jsonl"),
    ],
)  # fmt: skip
def test_what_cannot_be_pooled_is_named(run, spoil, message):
    spoil(run)
    with pytest.raises(UserError, match=message):
        write_seeds(run, [1, 2, 3])
    assert not (run / "seeds.json").exists()


def test_a_model_of_the_same_seed_of_another_run_is_the_same_setting(run):
    for seed in (1, 2, 3):
        path = run / f"seed_{seed}" / "grpo" / "recipe.yaml"
        content = yaml.safe_load(path.read_text())
        content["stages"]["grpo"]["model"] = {"name_or_path": f"outputs/warm/seed_{seed}/sft"}
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert list(read_results(run / "grpo", "test")) == [1, 2, 3]


def test_a_changed_later_stage_does_not_keep_an_earlier_one_from_being_pooled(run):
    path = run / "seed_3" / "sft" / "recipe.yaml"  # as if grpo had been changed since, and seed 3 been added
    path.write_text(path.read_text().replace("beta: 0.1", "beta: 0.2"))
    assert list(read_results(run / "sft", "test")) == [1, 2, 3]


def test_seeds_json_says_which_seeds_count(run):
    write_seeds(run, [1, 3])
    assert list(read_results(run / "grpo", "test")) == [1, 3]
    with pytest.raises(UserError, match=r"seed_3/nothing/eval_test.json|nothing"):
        read_results(run / "nothing", "test")


@pytest.mark.parametrize(
    ("file", "text", "read", "message"),
    [
        ("seeds.json", '{"seeds": [1, 2', "grpo", "seeds.json, line 1: not valid JSON"),
        ("seeds.json", '{"seeds": 3}', "grpo", "seeds.json: seeds is 3; expected a list of whole numbers"),
        ("seeds.json", "[1, 2]", "", "seeds.json: seeds is null"),
        ("seed_2/sft/recipe.yaml", "a: [1", "sft", "seed_2/sft/recipe.yaml:1: while parsing a flow sequence"),
        ("seed_2/sft/recipe.yaml", "stages: {sft: 3}", "sft", "seed_2/sft/recipe.yaml: stages is .*; expected a mapping of stages"),
        ("seed_2/sft/recipe.yaml", "stages: {sftt: {}}", "sft", "seed_2/sft/recipe.yaml: has no stage sft; did you mean sftt?"),
        ("seed_1/recipe.yaml", "", "", "seed_1/recipe.yaml: is empty"),
        ("seeds.md", "", "seed_4/sft", "ed4_tiny/seed_4/sft/eval_test.json: no such file"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(run, file, text, read, message):
    (run / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(run / read, "test")


def test_a_report_names_a_broken_recipe(run):
    (run / "seed_1" / "recipe.yaml").write_text("stages: [sft]")
    with pytest.raises(UserError, match="seed_1/recipe.yaml: stages is .*; expected a mapping of stages"):
        read_stages(run / "seed_1", "test")

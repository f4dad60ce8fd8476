"""A reward model, a warm start and a policy that learns from the model: one tiny run from end to end."""

import json
import re

import pytest
import yaml

from empathy_trl.errors import UserError
from empathy_trl.models.scorer import predict
from empathy_trl.recipe import load_recipe
from tests.recipes.scripts import finished_run, script

SMALL = """
# A recipe for tests.
data: {name: wassa, path: sample, split_by: conversation}
evaluation: {batch_size: 8, max_new_tokens: 8, limit: 8}
stages:
  reward:
    task: regress
    model: {from_scratch: {architecture: roberta, hidden_size: 16, layers: 1, heads: 2, vocab_size: 400, max_length: 64}}
    trainer: {max_steps: 4, save_steps: 2, save_strategy: steps, per_device_train_batch_size: 8, max_length: 64, logging_steps: 1, disable_tqdm: true}
  sft:
    task: sft
    model: {from_scratch: {architecture: qwen2, hidden_size: 16, layers: 1, heads: 2, vocab_size: 600}}
    trainer: {max_steps: 2, per_device_train_batch_size: 4, bf16: false, save_strategy: "no", logging_steps: 1, disable_tqdm: true}
  grpo:
    task: grpo
    model: {name_or_path: "stage:sft"}
    rewards: {empathy_model: {model: "stage:reward"}, format: {weight: 0.2}, repetition_penalty: {weight: 0.1}}
    trainer: {max_steps: 2, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 6, beta: 0.1, bf16: false, logging_steps: 1, disable_tqdm: true}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its recipe and its output folder."""
    return finished_run(SMALL, tmp_path_factory.mktemp("wassa"))


def evaluation(folder, stage):
    return json.loads((folder / stage / "eval_test.json").read_text())


def test_the_reward_model_describes_itself_and_answers(finished):
    folder = finished[1] / "reward"
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "Emotion", "1": "EmotionalPolarity", "2": "Empathy"}
    assert config["label_ranges"]["EmotionalPolarity"] == [0, 2]
    assert config["text_max_length"] == 64 and config["text_normalization"]["urls"] is True
    (ratings,) = predict(str(folder), ["I am so sorry."])
    assert list(ratings) == ["Emotion", "EmotionalPolarity", "Empathy"]


def test_ratings_are_reported_beside_the_mean_predictor(finished):
    result = evaluation(finished[1], "reward")
    assert result["kind"] == "ratings"
    for figure in ("mae", "pearson", "spearman"):
        for name in (*result["ratings"], "mean"):
            assert result["metrics"][f"{figure}_{name}"].keys() == {"value", "low", "high", "n"}
    assert result["baselines"]["mean"]["pearson_mean"]["value"] == 0
    assert (finished[1] / "reward" / "ratings_test.png").stat().st_size > 5000
    rows = [json.loads(line) for line in (finished[1] / "reward" / "predictions_test.jsonl").read_text().splitlines()]
    assert rows[0].keys() == {"index", "text", "label", "prediction", "error"}


def test_warm_start_and_policy_are_judged_alike(finished):
    for stage in ("sft", "grpo"):
        result = evaluation(finished[1], stage)
        assert result["kind"] == "replies"
        assert {"reward", "reward_empathy_model", "reward_format", "reward_repetition_penalty", "reply_words", "distinct_2",
                "duplicate_share", "reference_similarity", "empty_share", "bleu_4", "dist_at_2"} <= result["metrics"].keys()  # fmt: skip
        assert not {"perplexity", "emo_acc", "intent_acc", "item_ratio"} & result["metrics"].keys()
        # a format or a total cannot be had for people's own answers
        assert {"reward_empathy_model", "reward_repetition_penalty"} == {
            name for name in result["baselines"]["reference"] if name.startswith("reward")
        }
        assert result["baselines"]["reference"]["reference_similarity"]["value"] == pytest.approx(1)


def test_rewards_in_training_come_from_the_model_of_the_first_stage(finished):
    rows = [json.loads(line) for line in (finished[1] / "grpo" / "metrics.jsonl").read_text().splitlines()]
    assert all("rewards/empathy_model/mean" in row for row in rows[:2])
    assert any(name.startswith("scorer/empathy_model/texts_per_second") for name in rows[0])


def test_each_kind_has_its_own_part_of_the_report(finished):
    report = (finished[1] / "report.md").read_text()
    assert (
        "## Stages side by side (ratings: reward)" in report and "## Stages side by side (replies: sft, grpo)" in report
    )
    assert "**From sft to grpo, test mean reward went from" in report and "reward: test mean Pearson" in report
    for words in (
        "distinct-2",
        "duplicate replies",
        "| reference replies |",
        "similarity to the reference",
        "| mean rating |",
    ):
        assert words in report
    assert (finished[1] / "report.png").stat().st_size > 10_000


def test_a_second_run_skips_everything_and_a_new_reward_model_retrains_the_policy(finished, capsys):
    recipe, folder = finished
    run = script("run")
    assert run(["--recipe", str(recipe), "--output_dir", str(folder)]) == 0
    assert capsys.readouterr().out.count("complete, skipped") == 3
    changed = ["--stages.reward.trainer.learning_rate", "1e-3", "--recipe", str(recipe), "--output_dir", str(folder)]
    assert run(changed) == 0
    said = capsys.readouterr().out
    assert "[reward] starts" in said and "[sft] complete, skipped" in said and "[grpo] starts" in said


def test_evaluate_py_judges_by_the_recipes_rewards(finished, tmp_path, monkeypatch):
    recipe, folder = finished
    monkeypatch.chdir(tmp_path)  # no outputs/ here: the reward model is found beside the policy
    main = script("evaluate")
    assert main(["--recipe", str(recipe), "--model", str(folder / "grpo"), "--output_dir", str(tmp_path / "a")]) == 0
    again, first = evaluation(tmp_path, "a"), evaluation(folder, "grpo")
    assert again["metrics"] == first["metrics"]
    assert main(["--recipe", str(recipe), "--stage", "reward", "--model", str(folder / "reward"),
                 "--output_dir", str(tmp_path / "b")]) == 0  # fmt: skip
    assert evaluation(tmp_path, "b")["metrics"] == evaluation(folder, "reward")["metrics"]


@pytest.mark.parametrize(
    "stage, model, message",
    [
        (
            "grpo",
            "reward",
            r"out/reward: is a classifier or regressor \(RobertaFor.*expected a language model.*--stage",
        ),
        ("reward", "grpo", r"out/grpo: is a generative model"),
    ],
)
def test_evaluate_py_names_a_model_of_the_wrong_kind(finished, tmp_path, capsys, stage, model, message):
    recipe, folder = finished
    arguments = ["--recipe", str(recipe), "--stage", stage, "--output_dir", str(tmp_path)]
    assert script("evaluate")([*arguments, "--model", str(folder / model)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_evaluate_py_refuses_outputs_that_are_not_the_stages(finished, tmp_path, capsys):
    arguments = ["--recipe", "intent9_tiny", "--model", str(finished[1] / "reward"), "--output_dir", str(tmp_path)]
    assert script("evaluate")(arguments) == 2
    message = (
        "its outputs are Emotion, EmotionalPolarity, Empathy; those of stage classify (classify) are agreeing, ack"
    )
    assert message in capsys.readouterr().err


def test_a_judge_may_be_trained_after_the_warm_start(tmp_path):
    content = yaml.safe_load(SMALL)
    content["stages"] = {name: content["stages"][name] for name in ("sft", "reward", "grpo")}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert script("run")(["--recipe", str(tmp_path / "small.yaml"), "--output_dir", str(tmp_path / "out")]) == 0
    assert "reward_empathy_model" in evaluation(tmp_path / "out", "sft")["metrics"]


@pytest.mark.parametrize(
    "override, message",
    [
        (["--stages.grpo.rewards.empathy_model.model", "./nowhere"],
         r"rewards.empathy_model.model: no folder './nowhere'; expected stage:<name>, a folder, or a Hub id"),
        (["--stages.grpo.rewards.empathy_model.model", "stage:rewards"],
         r"rewards.empathy_model.model: unknown stage 'rewards'; did you mean reward"),
        (["--stages.grpo.rewards.empathy_model.model", "stage:sft"], r"sft is a stage with task sft.*expected.*regress, classify"),
        (["--stages.grpo.model.name_or_path", "stage:reward"], r"reward is a stage with task regress.*expected.*sft, grpo"),
        (["--stages.reward.model.from_scratch.architecture", "qwen2"],
         r"qwen2 is a decoder, which task regress does not train \(choices: roberta\)"),
        (["--stages.sft.model.from_scratch.architecture", "roberta"],
         r"roberta is an encoder, which task sft does not train \(choices: qwen2, llama, gemma2, t5\)"),
        (["--stages.reward.model.load_in_4bit", "true"], r"load_in_4bit"),
        (["--stages.reward.trainer.max_length", "65"],
         r"stages.reward.trainer.max_length: 65 tokens are more than the model's 64 positions"),
        (["--stages.reward.trainer.loss", "l1"], r"stages.reward.trainer.loss: unknown choice 'l1' \(choices: huber, mse\)"),
        (["--stages.reward.task", "classify"], r"data.name: wassa has rows for regress, sft, grpo, ppo, not for classify"),
        (["--data.ranges", "{Empathy: [5, 0]}"], r"ranges.Empathy \[5.0, 0.0\] is not a range with low < high"),
        (["--data.split_by", "turn"], r"data.split_by: unknown choice 'turn'"),
        (["--data.name", "ed4"], r"data.split_by: ed4 does not read it; corpora that do: wassa"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_is_trained(tmp_path, override, message):
    (tmp_path / "small.yaml").write_text(SMALL)
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "small.yaml", override)


def test_replies_that_nobody_would_judge_are_found_before_training(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL)
    arguments = [
        "--recipe",
        str(tmp_path / "small.yaml"),
        "--output_dir",
        str(tmp_path / "out"),
        "--stages.grpo",
        "null",
    ]
    assert script("run")(arguments) == 2
    assert (
        "stages.sft: its replies would be judged by the rewards of a later stage, and no later stage has any"
        in capsys.readouterr().err
    )

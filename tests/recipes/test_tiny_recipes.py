"""Every recipe that fits a laptop trains as it is written, only for fewer steps and rows; what these runs leave; and mistakes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from empathy_trl.check import describe
from empathy_trl.errors import UserError
from empathy_trl.models.scorer import predict
from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.layers import REWARD_TASKS, read_yaml
from empathy_trl.recipe.stages import fingerprint, stage_runs
from empathy_trl.tags import CHAT_TEMPLATES
from tests.recipes.scripts import ROOT, script, without_pictures
from tests.trainers.tiny_t5 import save_t5

TINY, SMOLLM2, MINILM = (
    sorted(path.stem for path in (ROOT / "recipes").glob(f"*_{size}.yaml")) for size in ("tiny", "smollm2", "minilm")
)
run, evaluate = script("run"), script("evaluate")


def few_steps(name: str) -> list[str]:
    """Overrides with which every stage of a recipe trains for two steps of eight rows."""
    stages = load_recipe(name).stages
    overrides = ["--evaluation.limit", "8", "--evaluation.max_new_tokens", "8"]
    for stage in stages.values():
        # a single stage has its keys at the top level of the file
        prefix = "--trainer" if len(stages) == 1 else f"--stages.{stage.name}.trainer"
        overrides += [f"{prefix}.max_steps", "2", f"{prefix}.per_device_train_batch_size", "8"]
        overrides += [f"{prefix}.disable_tqdm", "true", f"{prefix}.logging_steps", "1"]
        if stage.task in REWARD_TASKS:
            overrides += [f"{prefix}.max_completion_length", "8"]
        for reward, section in stage.rewards.items():
            if "min_held_out" in section.params:  # more than a model of two steps reaches
                overrides += [f"--stages.{stage.name}.rewards.{reward}.min_held_out", "0"]
    return overrides


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function: name of a tiny recipe -> the folder of its run, which is trained once."""
    folders = {}

    def train(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                if name not in ("wassa_tiny", "ecr_tiny"):  # these two have all kinds of them
                    without_pictures(patch)
                assert run(["--recipe", name, "--output_dir", str(folder), *few_steps(name)]) == 0
            folders[name] = folder
        return folders[name]

    return train


def evaluation(folder, stage):
    return json.loads((folder / stage / "eval_test.json").read_text())


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_recipe_trains_from_end_to_end(name, trained):
    folder = trained(name)
    for stage in load_recipe(name).stages:
        assert evaluation(folder, stage)["data"]["n"] == 8 and (folder / stage / "model.safetensors").is_file()
        assert stage in (folder / "report.md").read_text()


def test_a_pretrained_model_is_evaluated_as_it_is_and_after_each_stage(tiny_folder, tmp_path, monkeypatch):
    without_pictures(monkeypatch)
    arguments = ["--recipe", "ed4_smollm2", "--output_dir", str(tmp_path), "--model.name_or_path", str(tiny_folder)]
    assert run([*arguments, *few_steps("ed4_smollm2")]) == 0
    untrained = tmp_path / "sft" / "untrained" / "eval_test.json"
    assert json.loads(untrained.read_text())["model"] == str(tiny_folder)
    assert [
        "next_word_accuracy" in evaluation(tmp_path, stage)["metrics"] for stage in ("sft/untrained", "sft", "grpo")
    ] == [True, False, False]
    table = (tmp_path / "report.md").read_text().split("## Stages side by side")[1].split("##")[0]
    assert re.findall(r"^\| (\w+) \|", table, flags=re.MULTILINE) == ["untrained", "sft", "grpo"]
    before = untrained.stat().st_mtime_ns
    assert run([*arguments, *few_steps("ed4_smollm2")]) == 0 and untrained.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.pretrained
@pytest.mark.parametrize("name", SMOLLM2)
def test_a_recipe_for_smollm2_trains_from_end_to_end(name, smollm2, tmp_path, monkeypatch):
    without_pictures(monkeypatch)
    stage = "" if "model" in read_yaml(ROOT / "recipes" / f"{name}.yaml") else "stages.sft."
    flags = [f"--{stage}model.name_or_path", str(smollm2), *few_steps(name)]
    if name == "empath_smollm2":
        flags += ["--stages.grpo.rewards.foresight.model", str(smollm2.parent / "minilm-l6")]
    assert run(["--recipe", name, "--output_dir", str(tmp_path), *flags]) == 0
    stages = load_recipe(name).stages
    assert {evaluation(tmp_path, stage)["data"]["n"] for stage in stages} == {8}
    assert (tmp_path / list(stages)[-1] / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.pretrained
@pytest.mark.parametrize("name", MINILM)
def test_a_recipe_for_minilm_trains_from_end_to_end(name, smollm2, tmp_path, monkeypatch):
    without_pictures(monkeypatch)
    flags = ["--model.name_or_path", str(smollm2.parent / "minilm-l6"), *few_steps(name)]
    assert run(["--recipe", name, "--output_dir", str(tmp_path), *flags]) == 0
    assert evaluation(tmp_path, "classify")["data"]["n"] == 8


def test_a_reward_model_describes_itself_and_is_reported_beside_the_mean_predictor(trained):
    folder = trained("wassa_tiny")
    config = json.loads((folder / "reward" / "config.json").read_text())
    assert config["id2label"] == {"0": "Emotion", "1": "EmotionalPolarity", "2": "Empathy"}
    assert config["label_ranges"]["EmotionalPolarity"] == [0, 2]
    assert config["text_max_length"] == 128 and config["text_normalization"]["urls"] is True
    (ratings,) = predict(str(folder / "reward"), ["I am so sorry."])
    assert list(ratings) == ["Emotion", "EmotionalPolarity", "Empathy"]
    result = evaluation(folder, "reward")
    assert result["kind"] == "ratings"
    for figure in ("mae", "pearson", "spearman"):
        for name in (*result["ratings"], "mean"):
            assert result["metrics"][f"{figure}_{name}"].keys() == {"value", "low", "high", "n"}
    assert result["baselines"]["mean"]["pearson_mean"]["value"] == 0
    assert (folder / "reward" / "ratings_test.png").stat().st_size > 5000
    rows = rows_of(folder / "reward" / "predictions_test.jsonl")
    assert rows[0].keys() == {"index", "text", "label", "prediction", "error"}


def test_a_policy_learns_from_the_reward_model_and_is_judged_like_its_warm_start(trained):
    folder = trained("wassa_tiny")
    for row in rows_of(folder / "grpo" / "metrics.jsonl")[:2]:
        assert "rewards/empathy_model/mean" in row and "scorer/empathy_model/texts_per_second" in " ".join(row)
    for stage in ("sft", "grpo"):
        result = evaluation(folder, stage)
        assert result["kind"] == "replies"
        assert {"reward", "reward_empathy_model", "reward_format", "reward_repetition_penalty", "reply_words", "distinct_2",
                "duplicate_share", "reference_similarity", "empty_share", "bleu_4", "dist_at_2"} <= result["metrics"].keys()  # fmt: skip
        assert not {"perplexity", "emo_acc", "intent_acc", "item_ratio"} & result["metrics"].keys()
        # a format or a total cannot be had for people's own answers
        assert {"reward_empathy_model", "reward_repetition_penalty", "reward_length"} == {
            name for name in result["baselines"]["reference"] if name.startswith("reward")
        }
        assert result["baselines"]["reference"]["reference_similarity"]["value"] == pytest.approx(1)


def test_each_kind_has_its_own_part_of_the_report(trained):
    report = (trained("wassa_tiny") / "report.md").read_text()
    for words in (
        "## Stages side by side (ratings: reward)",
        "## Stages side by side (replies: sft, grpo)",
        "**From sft to grpo, test mean reward went from",
        "reward: test mean Pearson",
        "distinct-2",
        "duplicate replies",
        "| reference replies |",
        "similarity to the reference",
        "| mean rating |",
    ):
        assert words in report
    assert (trained("wassa_tiny") / "report.png").stat().st_size > 10_000


def test_other_settings_of_a_reward_model_make_another_run_of_its_policy(tmp_path):
    def fingerprints(*overrides):
        return {
            name: each.fingerprint for name, each in stage_runs(load_recipe("wassa_tiny", overrides), tmp_path).items()
        }

    before, after = fingerprints(), fingerprints("--stages.reward.trainer.learning_rate", "0.5")
    assert {name for name in before if before[name] != after[name]} == {"reward", "grpo"}


def test_evaluate_judges_by_the_recipes_rewards(trained, tmp_path, monkeypatch):
    folder = trained("wassa_tiny")
    monkeypatch.chdir(tmp_path)  # no outputs/ here: the reward model is found beside the policy
    for stage in ("grpo", "reward"):
        arguments = ["--recipe", str(folder / "recipe.yaml"), "--stage", stage, "--output_dir", stage]
        assert evaluate([*arguments, "--model", str(folder / stage)]) == 0
        assert evaluation(tmp_path, stage)["metrics"] == evaluation(folder, stage)["metrics"]


@pytest.mark.parametrize(
    "recipe, stage, model, message",
    [
        ("wassa_tiny", "grpo", "reward",
         r"/reward: is a classifier or regressor \(RobertaFor.*expected a language model.*--stage"),
        ("wassa_tiny", "reward", "grpo", r"/grpo: is a generative model"),
        ("intent9_tiny", "classify", "reward",
         "its outputs are Emotion, EmotionalPolarity, Empathy; those of stage classify .classify. are agreeing, ack"),
    ],
)  # fmt: skip
def test_evaluate_refuses_a_model_of_the_wrong_kind(trained, tmp_path, capsys, recipe, stage, model, message):
    arguments = ["--recipe", recipe, "--stage", stage, "--output_dir", str(tmp_path)]
    assert evaluate([*arguments, "--model", str(trained("wassa_tiny") / model)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_recipe_with_lora_trains_a_pretrained_encoder(tmp_path):
    """wassa_reward.yaml as it is, with a small RoBERTa in place of the one on the Hub; what it saves is a whole model."""
    from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaModel

    from empathy_trl.models.classifier import build_encoder_tokenizer

    tokenizer = build_encoder_tokenizer(["I am so sorry to hear that."] * 3, 300, 64)
    RobertaModel(
        RobertaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                      max_position_embeddings=300, pad_token_id=tokenizer.pad_token_id)
    ).save_pretrained(tmp_path / "base")  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "base")
    overrides = ["--model.name_or_path", str(tmp_path / "base"), "--trainer.bf16", "false", "--trainer.max_steps", "2",
                 "--trainer.per_device_train_batch_size", "8", "--evaluation.limit", "8",
                 "--trainer.disable_tqdm", "true", "--stages.turns", "null"]  # fmt: skip
    assert run(["--recipe", "wassa_reward", "--output_dir", str(tmp_path / "out"), *overrides]) == 0
    saved = tmp_path / "out" / "conversations"
    assert not (saved / "adapter_config.json").exists()
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert model.config.id2label == {0: "Emotion", 1: "EmotionalPolarity", 2: "Empathy"}
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_ppo_leaves_a_policy_a_critic_and_pictures_of_both(trained):
    folder = trained("ecr_tiny") / "ppo"
    for name in ("critic/value_head.safetensors", "reward_curve.png", "critic_curves.png", "samples.md"):
        assert (folder / name).is_file(), name
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["unexpected_keys"]
    logged = rows_of(folder / "metrics.jsonl")[0].keys()
    assert {"explained_variance", "value_loss", "policy_loss", "kl", "returns/mean", "rewards/distinct/mean"} <= logged


def test_the_plan_counts_a_critic_with_a_backbone(tmp_path):
    overrides = ["--stages.ppo.trainer.critic_kind", "model", "--stages.ppo.trainer.critic_learning_rate", "0.01"]
    plan = describe(load_recipe("ecr_tiny", overrides), tmp_path)
    assert "critic     a backbone of its own, learning rate 0.01, alone for 5 steps\n" in plan and "critic 0." in plan


def test_an_encoder_decoder_stays_one(trained):
    folder = trained("godel_tiny")
    for stage in ("sft", "ppo"):
        assert json.loads((folder / stage / "config.json").read_text())["model_type"] == "t5"
        assert AutoTokenizer.from_pretrained(folder / stage).chat_template == CHAT_TEMPLATES["godel"]
    assert {"kl", "rewards/length/mean"} <= rows_of(folder / "ppo" / "metrics.jsonl")[0].keys()
    assert any(row["completion"] for row in rows_of(folder / "sft" / "predictions_test.jsonl"))
    assert "## Start (step 1)" in (folder / "ppo" / "samples.md").read_text()
    assert "stage:sft" in (folder / "recipe.yaml").read_text()


T5 = """
# A recipe for tests.
data: {name: wassa, path: sample, split_by: conversation}
stages:
  sft:
    task: sft
    model: {chat_template: godel, from_scratch: {architecture: t5, hidden_size: 32, layers: 1, heads: 2, vocab_size: 600}}
    trainer: {max_steps: 8, bf16: false}
  grpo:
    task: grpo
    model: {name_or_path: "stage:sft"}
    rewards: {length: {min: 2, max: 5}}
    trainer: {max_steps: 2, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 6, beta: 0.1, bf16: false}
"""
VLLM = ["--stages.grpo.trainer.use_vllm", "true"]


def test_the_plan_counts_a_t5(tmp_path):
    (tmp_path / "t5.yaml").write_text(T5)
    overrides = ["--stages.grpo.trainer.use_vllm", "false", "--stages.sft.trainer.packing", "false"]  # the defaults
    plan = describe(load_recipe(tmp_path / "t5.yaml", overrides), tmp_path)
    assert plan.count("48,224 of 48,224 trained") == 2 and "logits" in plan
    assert re.search(r"4 × \(\d+ prompt \+ at most 6 new\)", plan)  # each completion reads its own prompt
    assert "The recipe is sound." in plan


MISTAKES = {
    "t5.yaml": [
        (VLLM, "stages.grpo.trainer.use_vllm: true, but the model is an encoder-decoder: vLLM .*leave it out"),
        ([*VLLM, "--stages.sft", "null", "--stages.grpo.model.name_or_path", "t5"],
         "trainer.use_vllm: true, but the model is an encoder-decoder"),  # its folder says so
        (["--stages.grpo.trainer.use_transformers_continuous_batching", "true"], "continuous_batching: true, but the model is an"),
        (["--stages.sft.trainer.packing", "true"], "stages.sft.trainer.packing: true, but the model is an encoder-decoder: its pr"),
        (["--stages.sft.trainer.completion_only_loss", "false"], "stages.sft.trainer.completion_only_loss: false, but the model"),
    ],
    "wassa_tiny": [
        (["--stages.grpo.rewards.empathy_model.model", "stage:rewards"],
         r"rewards.empathy_model.model: unknown stage 'rewards'; did you mean reward"),
        (["--stages.grpo.rewards.empathy_model.model", "stage:sft"], r"sft is a stage with task sft.*expected.*regress, classify"),
        (["--stages.grpo.model.name_or_path", "stage:reward"], r"reward is a stage with task regress.*expected.*sft, grpo"),
        (["--stages.reward.model.from_scratch.architecture", "qwen2"],
         r"qwen2 is a decoder, which task regress does not train \(choices: roberta\)"),
        (["--stages.reward.trainer.max_length", "129"],
         r"stages.reward.trainer.max_length: 129 tokens are more than the model's 128 positions"),
        (["--stages.reward.trainer.loss", "l1"], r"stages.reward.trainer.loss: unknown choice 'l1' \(choices: huber, mse\)"),
        (["--stages.reward.task", "classify"], r"data.name: wassa has rows for regress, sft, grpo, ppo, not for classify"),
        (["--data.ranges", "{Empathy: [5, 0]}"], r"ranges.Empathy \[5.0, 0.0\] is not a range with low < high"),
        (["--data.name", "ed4"], r"data.split_by: ed4 does not read it; corpora that do: wassa"),
    ],
    "ecr_tiny": [
        (["--stages.ppo.trainer.critic_name_or_path", "stage:critc"], "critic_name_or_path: unknown stage 'critc'"),
        (["--stages.ppo.trainer.critic_name_or_path", "stage:sft"], "stage sft has task sft, which saves no value head; expected .* ppo"),
        (["--stages.ppo.trainer.critic_name_or_path", "a/b/c"], "critic_name_or_path: no folder 'a/b/c'"),
        (["--stages.ppo.trainer.critic_name_or_path", "."],
         r"critic_name_or_path: \. holds no critic \(critic_config\.json\) to initialise the head"),
        (["--stages.ppo.trainer.critic_name_or_path", "a/b"], "critic_name_or_path: a/b holds no critic"),
        (["--stages.ppo.trainer.lam", "1.5"], "stages.ppo.trainer.lam: 1.5 should be from 0 to 1"),
        (["--stages.ppo.trainer.critic_kind", "heads"], r"critic_kind: unknown choice 'heads'; did you mean head\?"),
        (["--stages.ppo.trainer.beta", "0.3"], "beta: 0.3 puts a KL into the loss"),
        (["--stages.ppo.model", "{name_or_path: user/model, load_in_4bit: true, lora: {r: 4}}"],
         "trainer.critic_kind: a head needs a policy whose weights are not quantised"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("recipe, overrides, message", [(name, *case) for name in MISTAKES for case in MISTAKES[name]])
def test_mistakes_are_found_before_anything_is_trained(tmp_path, monkeypatch, recipe, overrides, message):
    monkeypatch.chdir(tmp_path)
    Path("t5.yaml").write_text(T5)
    save_t5(Path("t5"))
    with pytest.raises(UserError, match=message):
        describe(load_recipe(recipe, overrides), tmp_path)


def test_replies_that_nobody_would_judge_are_found_before_training(tmp_path, capsys):
    arguments = ["--recipe", "wassa_tiny", "--output_dir", str(tmp_path / "out"), "--stages.grpo", "null"]
    assert run([*arguments, "--check"]) == run(arguments) == 2
    message = "stages.sft: its replies would be judged by the rewards of a later stage, and no later stage has any"
    assert capsys.readouterr().err.count(message) == 2


def test_a_critic_of_another_run_makes_it_another_run():
    content = load_recipe("ecr_tiny").resolved()["stages"]["ppo"]
    content["trainer"]["critic_name_or_path"] = "stage:critic"
    assert fingerprint(content, {"critic": "a"}) != fingerprint(content, {"critic": "b"})


@pytest.mark.slow
def test_two_cpu_processes_train_ppo_alike(trained, tmp_path):
    """As one process does: the same figures are logged, and the same files left."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(ROOT / "recipes" / "run.py")]
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    arguments = ["--recipe", "ecr_tiny", "--output_dir", str(tmp_path), *few_steps("ecr_tiny")]
    subprocess.run([*command, *arguments], check=True, env=environment)
    assert json.loads((tmp_path / "ppo" / "run.json").read_text())["processes"] == 2
    one, two = (rows_of(folder / "ppo" / "metrics.jsonl") for folder in (trained("ecr_tiny"), tmp_path))
    assert [set(row) for row in one] == [set(row) for row in two]
    assert all(row["value_loss"] > 0 for row in two[:2])
    assert (tmp_path / "ppo" / "critic" / "value_head.safetensors").is_file()

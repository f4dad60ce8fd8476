"""What follows from a stage, and which stage folders are new, interrupted, complete, or not ours."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from empathy_trl.errors import UserError
from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.layers import dump_yaml
from empathy_trl.recipe.stages import (
    archive_other_run,
    fingerprint,
    fit_rows,
    inspect_stage,
    judges_in,
    known_fingerprint,
    last_checkpoint,
    remove_broken_checkpoints,
    stage_runs,
)

STAGE = {
    "task": "sft",
    "model": {"name_or_path": "m"},
    "trainer": {"learning_rate": 0.1},
    "evaluation": {"split": "test"},
}


def record(path, **content):
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"fingerprint": "aaaa", "status": "running", **content}))


def checkpoint(path, step, state='{"global_step": 1}'):
    (path / f"checkpoint-{step}").mkdir(parents=True)
    if state is not None:
        (path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)


@pytest.mark.parametrize(
    "change, same",
    [
        ({"trainer": {"learning_rate": 0.2}}, False),
        ({"model": {"name_or_path": "n"}}, False),
        ({"evaluation": {"split": "valid"}}, True),
        ({"hub": {"repo_id": "me/it"}}, True),
    ],
)
def test_fingerprint_covers_what_decides_the_weights(change, same):
    assert (fingerprint(STAGE, {}) == fingerprint({**STAGE, **change}, {})) is same


def test_fingerprint_covers_the_file_of_a_chat_template(tmp_path):
    file = tmp_path / "mine.jinja"
    stage = {**STAGE, "model": {"name_or_path": "m", "chat_template": str(file)}}
    file.write_text("{{ messages }}")
    before = fingerprint(stage, {})
    assert fingerprint(stage, {}) == before
    file.write_text("{{ messages[0].content }}")
    assert fingerprint(stage, {}) != before


JUDGE = {"weight": 1.0, "base_url": "http://localhost:8000/v1", "model": "m"}


@pytest.mark.parametrize(
    "change, same",
    [
        ({"base_url": "http://localhost:9000/v1"}, True),
        ({"timeout": 120.0, "retries": 9, "concurrency": 2, "cache_dir": None, "max_failure_share": 0.5}, True),
        ({"api_key_env": "OTHER_KEY"}, True),
        ({"model": "n"}, False),
        ({"weight": 2.0}, False),
        ({"scale": [0, 10]}, False),
        ({"import": "my_rewards:Judge", "timeout": 120.0}, False),
    ],
)
def test_where_a_judge_is_and_how_long_it_may_take_makes_no_other_run(change, same):
    own = {"import": "my_rewards:Judge"} if "import" in change else {}
    before = {**STAGE, "rewards": {"llm_judge": JUDGE | own}}
    after = {**STAGE, "rewards": {"llm_judge": JUDGE | change}}
    assert (fingerprint(before, {}) == fingerprint(after, {})) is same


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("wassa_reward_tiny", {"max_length": 1024}, None),
        ("wassa_reward_tiny", {"max_length": 1025}, "trainer.max_length: 1025 is too much, because the model has 1024 positions; expected at most 1024"),
        ("ed4_tiny", {"max_length": 1025, "packing": True, "packing_strategy": "wrapped"}, "max_length: 1025 is too much"),
        ("ed4_tiny", {"max_length": 1024}, None),
        ("ed4_tiny", {"max_length": None}, "train: row 1 has 1203 tokens in its prompt and up to 2 in its completion, .* set trainer.max_length: 1024, which cuts it"),
        ("grpo", {"max_completion_length": 8}, "up to 8 in its completion, .*, lower trainer.max_completion_length, or"),
        ("confidence", {"max_completion_length": 8}, r"up to \d\d in its completion"),  # and the answer that it asks about
    ],
)  # fmt: skip
def test_a_trainer_gets_rows_that_its_model_can_read(tiny, name, settings, message):
    recipe, task = (name, None) if "tiny" in name else ("ed4_tiny", "grpo")
    confident = ["--stages.grpo.rewards.emotion_confidence.weight", "1.0"] if name == "confidence" else []
    stages = load_recipe(recipe, confident).stages
    stage = stages[task or next(iter(stages))]
    row = {
        "prompt": [[{"role": "user", "content": "<answer>" * 1201}]],
        "completion": [[{"role": "assistant", "content": "<answer>"}]],
    }
    rows, config = Dataset.from_dict(row), SimpleNamespace(**{"packing": False} | settings)
    if message is None:
        assert fit_rows(stage, rows, "train", *tiny, config) == (rows, 0)
        return
    with pytest.raises(UserError, match=message):
        fit_rows(stage, rows, "train", *tiny, config)


def test_fingerprint_covers_the_rows():
    assert fingerprint(STAGE, {}, "rows 1") != fingerprint(STAGE, {}, "rows 2")


def test_fingerprint_covers_the_stage_it_starts_from():
    child = {**STAGE, "model": {"name_or_path": "stage:sft"}}
    assert fingerprint(child, {"sft": "1"}) != fingerprint(child, {"sft": "2"})
    assert fingerprint(STAGE, {"sft": "1"}) == fingerprint(STAGE, {"sft": "2"})


@pytest.mark.parametrize(
    "content, asked, status",
    [
        (None, "aaaa", "new"),
        ({"status": "complete"}, "aaaa", "complete"),
        ({"status": "running"}, "aaaa", "interrupted"),
        ({"status": "complete"}, "bbbb", "new"),
    ],
)
def test_status(tmp_path, content, asked, status):
    path = tmp_path / "stage"
    if content is not None:
        record(path, **content)
    assert inspect_stage(path, asked).status == status


def test_last_checkpoint_skips_those_a_crash_cut_short(tmp_path):
    assert last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, state=None)
    checkpoint(tmp_path, 30, state='{"global_st')
    checkpoint(tmp_path, 40, state="[]")
    checkpoint(tmp_path, 50)
    (tmp_path / "checkpoint-50" / "optimizer.pt").write_bytes(b"PK cut short")
    checkpoint(tmp_path, 60)
    (tmp_path / "checkpoint-60" / "model.safetensors").write_bytes(b"cut short")
    (tmp_path / "checkpoint-best").mkdir()
    checkpoint(tmp_path, 5)
    for step, process in ((2, 0), (10, 0), (10, 1)):
        torch.save({}, tmp_path / f"checkpoint-{step}" / f"rng_state_{process}.pth")
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    remove_broken_checkpoints(tmp_path)  # of the fifth, a part has been deleted
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-10", "checkpoint-best"}


def test_unfinished_files_of_a_killed_run_do_not_count_as_a_run(tmp_path):
    path = tmp_path / "sft"
    record(tmp_path / "sft.aaaa", note="kept")
    path.mkdir()
    (path / ".run.json.7.tmp").write_text('{"finge')
    assert inspect_stage(path, "aaaa").status == "new"
    assert "was restored from" in archive_other_run(path, "aaaa", fresh=False)
    (path / ".merged.7.tmp").mkdir()
    (path / ".merged.7.tmp" / "model.safetensors").touch()
    assert archive_other_run(path, "aaaa", fresh=False) is None
    assert [file.name for file in path.iterdir()] == ["run.json"]


def test_a_deletion_that_is_killed_leaves_nothing_that_counts(tmp_path, monkeypatch):
    record(tmp_path / "sft", status="complete")
    monkeypatch.setattr(shutil, "rmtree", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        archive_other_run(tmp_path / "sft", "aaaa", fresh=True)
    assert inspect_stage(tmp_path / "sft", "aaaa").status == "new"


def test_a_run_with_other_settings_is_kept_beside_and_comes_back(tmp_path):
    path = tmp_path / "sft"
    record(path, note="first")
    assert "made with other settings or data; it is kept as" in archive_other_run(path, "bbbb", fresh=False)
    assert not path.exists()
    record(path, fingerprint="bbbb", note="second")
    assert "was restored from" in archive_other_run(path, "aaaa", fresh=False)
    assert json.loads((path / "run.json").read_text())["note"] == "first"
    assert json.loads((tmp_path / "sft.bbbb" / "run.json").read_text())["note"] == "second"


def test_a_kept_run_is_never_overwritten(tmp_path):
    record(tmp_path / "sft.aaaa", note="kept")
    record(tmp_path / "sft", note="newer")
    assert "sft.aaaa-2" in archive_other_run(tmp_path / "sft", "bbbb", fresh=False)
    assert json.loads((tmp_path / "sft.aaaa" / "run.json").read_text())["note"] == "kept"


def test_fresh_deletes_and_same_settings_stay(tmp_path):
    path = tmp_path / "sft"
    record(path)
    assert archive_other_run(path, "aaaa", fresh=False) is None
    assert path.exists()
    assert "--fresh" in archive_other_run(path, "aaaa", fresh=True)
    assert not path.exists()


@pytest.mark.parametrize("content", [None, "{not json", '{"other": 1}', "[]"])
@pytest.mark.parametrize(
    "action", [lambda path: archive_other_run(path, "a", fresh=True), lambda path: inspect_stage(path, "a")]
)
def test_a_folder_of_the_users_own_is_never_touched(tmp_path, content, action):
    (tmp_path / "thesis.txt").write_text("precious")
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="has no run.json written by this launcher"):
        action(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_record_survives_saving(tmp_path):
    folder = inspect_stage(tmp_path / "grpo", "cccc")
    folder.save(status="complete", seed=3)
    again = inspect_stage(tmp_path / "grpo", "cccc")
    assert (again.status, again.record["seed"]) == ("complete", 3)


@pytest.mark.parametrize("content", ["{", "[]", "{}", None])
def test_a_folder_without_a_record_has_no_fingerprint(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert judges_in({"a": {"model": str(tmp_path)}, "b": {}, "c": {"model": "me/it"}}, {}) == {}


@pytest.mark.parametrize("use", [lambda path: {"rewards": {"empathy_model": {"model": path}}},
                                 lambda path: {"model": {"name_or_path": path}}])  # fmt: skip
def test_a_model_of_another_run_that_was_trained_again_makes_another_run(tmp_path, use):
    stage = {**STAGE, **use(str(tmp_path / "reward"))}
    record(tmp_path / "reward", fingerprint="1")
    first = fingerprint(stage, {})
    assert fingerprint(stage, {}) == first
    (tmp_path / "reward" / "run.json").write_text('{"fingerprint": "2"}')
    assert fingerprint(stage, {}) != first


def test_a_run_of_version_0_1_with_trainer_fields_without_effect_is_known(tmp_path):
    stage = {"task": "grpo", "model": {"name_or_path": "m"}, "trainer": {"learning_rate": 0.1}}
    before = {**stage, "trainer": {"learning_rate": 0.1, "per_device_eval_batch_size": 32}}
    record(tmp_path / "grpo", fingerprint=fingerprint(before, {}, "rows"), stage="grpo")
    (tmp_path / "grpo" / "recipe.yaml").write_text(dump_yaml({"stages": {"grpo": before}}))
    assert known_fingerprint(tmp_path / "grpo", stage, {}, "rows") == fingerprint(before, {}, "rows")
    other = {**stage, "trainer": {"learning_rate": 0.2}}
    assert known_fingerprint(tmp_path / "grpo", other, {}, "rows") == fingerprint(other, {}, "rows")
    assert known_fingerprint(tmp_path / "sft", stage, {}, "rows") == fingerprint(stage, {}, "rows")


@pytest.mark.faults
def test_a_path_counts_as_what_it_means_and_a_run_from_before_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    runs = {
        name: run_of("ed4_tiny", "sft", "--stages.sft.model.name_or_path", name)
        for name in ("m", "m/", "./m", "x/../m")
    }
    assert len({run.fingerprint for run in runs.values()}) == 1
    stage = runs["m"].recipe.resolved()["stages"]["sft"]
    before = {**stage, "model": stage["model"] | {"name_or_path": "m/"}}  # as an earlier version noted it
    record(tmp_path / "sft", fingerprint=fingerprint(before, {}, "rows"), stage="sft")
    (tmp_path / "sft" / "recipe.yaml").write_text(dump_yaml({"stages": {"sft": before}}))
    assert fingerprint(before, {}, "rows") != fingerprint(stage, {}, "rows")
    assert known_fingerprint(tmp_path / "sft", stage, {}, "rows") == fingerprint(before, {}, "rows")


def run_of(name, stage, *overrides, folder=Path("out")):
    return stage_runs(load_recipe(name, list(overrides), training=False), folder)[stage]


def test_a_changed_row_makes_another_run_of_the_stages_that_see_it(tmp_path):
    rows = [f"i am {label} number {i},{label}\n" for i in range(10) for label in ("sad", "joyful", "angry", "afraid")]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "".join(rows))

    def fingerprints():
        runs = stage_runs(load_recipe("ed4_tiny", ["--data.path", str(tmp_path)]), Path("out"))
        return runs["sft"].fingerprint, runs["grpo"].row_digests, runs["sft"].row_digests["train"]

    before = fingerprints()
    with open(tmp_path / "train.csv", "a") as file:
        file.write("i am something else,sad\n")
    after = fingerprints()
    assert before[0] == after[0] and before[2] == after[2]  # the warm start sees the first quarter of the rows
    assert before[1]["train"] != after[1]["train"]


def test_every_named_stage_becomes_its_folder():
    run = run_of("wassa_tiny", "grpo", "--evaluation.classifiers.emotion", "me/emotions")
    assert run.stage.model.name_or_path == "stage:sft" and run.resolved.model.name_or_path == "out/sft"
    assert run.stage.rewards["empathy_model"].params["model"] == "stage:reward"
    assert run.resolved.rewards["empathy_model"].params["model"] == "out/reward"
    assert run.resolved.reply_classifiers == {"emotion": "me/emotions"}
    ppo = run_of("ecr_tiny", "ppo")
    ppo.stage.trainer["critic_name_or_path"] = "stage:sft"
    assert ppo.trainer_config().critic_name_or_path == "out/sft"


def test_a_warm_start_is_judged_by_the_rewards_that_come_after_it():
    runs = stage_runs(load_recipe("wassa_tiny"), Path("out"))
    assert runs["sft"].judging_rewards == runs["grpo"].judging_rewards == runs["grpo"].resolved.rewards


def test_replies_wait_for_the_models_that_judge_them_and_labels_for_none():
    runs = stage_runs(load_recipe("wassa_tiny", ["--evaluation.classifiers.emotion", "me/emotions"]), Path("out"))
    runs["sft"].stage.evaluation.classifiers.intent = "stage:intent"
    assert runs["sft"].judging_stages == {"reward", "intent"} and runs["grpo"].judging_stages == {"reward"}
    assert runs["reward"].judging_stages == set() and runs["reward"].stage.reply_classifiers == {}


def test_the_config_has_seed_and_folder_and_pushes_nothing():
    pushed = ["--hub.repo_id", "me/it", "--hub.push", "every_save"]
    config = run_of("ed4_tiny", "grpo", "--seed", "7", *pushed).trainer_config()
    assert (config.seed, config.output_dir, config.report_to) == (7, "out/grpo", [])
    assert (config.push_to_hub, config.hub_model_id) == (False, None)


def test_what_the_config_class_refuses_is_an_error_of_the_user():
    run = run_of("ed4_tiny", "grpo", "--stages.grpo.trainer.debug", "foo")
    with pytest.raises(UserError, match="stages.grpo.trainer.debug: 'foo' is refused: foo is not a valid DebugOption"):
        run.trainer_config()


@pytest.mark.faults
def test_a_figure_that_is_never_computed_chooses_no_checkpoint():
    key = "trainer.metric_for_best_model"
    message = rf"stages.classify.{key}: unknown figure 'f1' \(choices: accuracy_mean, accuracy_intent, loss\)"
    with pytest.raises(UserError, match=message):
        run_of("intent9_tiny", "classify", f"--{key}", "f1").trainer_config()
    assert run_of("intent9_tiny", "classify", f"--{key}", "eval_accuracy_intent").trainer_config().greater_is_better
    with pytest.raises(UserError, match=r"unknown figure 'loss' \(choices: pair_accuracy\)"):
        run_of("godel_tiny", "reward", f"--stages.reward.{key}", "loss").trainer_config()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    run = run_of("ed4_gemma", "grpo", "--model.load_in_4bit", "true", "--evaluation.bertscore", "roberta-large")
    assert run.missing_packages() == [
        'vllm (pip install "empathy-trl[vllm]")',
        'bitsandbytes (pip install "empathy-trl[quantization]")',
        'bert_score (pip install "empathy-trl[bertscore]")',
        'deepspeed (pip install "empathy-trl[deepspeed]")',
    ]
    tracked = run_of("intent9_tiny", "classify", "--trainer.report_to", "[wandb, mlflow]")
    assert tracked.missing_packages()[1:] == ["wandb (pip install wandb)", "mlflow (pip install mlflow)"]
    assert run_of("ed4_tiny", "sft").missing_packages() == ['deepspeed (pip install "empathy-trl[deepspeed]")']


SERVER = ["--stages.grpo.trainer.use_vllm", "true", "--stages.grpo.trainer.vllm_mode", "server", "--stages.grpo.trainer.vllm_server_base_url", "http://localhost:9/"]  # fmt: skip
SCRATCH = ["--model.lora", "null", "--model.name_or_path", "null", "--model.from_scratch", '{"architecture": "qwen2", "hidden_size": 8, "layers": 1, "vocab_size": 300}']  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize(
    ("recipe", "overrides", "problems"),
    [
        ("ed4_gemma", ["--trainer.use_vllm", "false"], []),
        ("ed4_gemma", [], ["use_vllm: true needs a GPU, because vLLM cannot take over trained weights on a CPU"]),
        ("ed4_gemma", ["--trainer.vllm_mode", "server", "--trainer.vllm_server_port", "9"],
         [r"vllm_server_host, stages.grpo.trainer.vllm_server_port: no vLLM server answers at http://0.0.0.0:9 .* --model google/gemma-2-2b-it --port 9$",
          "use_vllm: true needs a GPU, because vLLM cannot receive trained weights with NCCL on a CPU"]),
        ("ed4_tiny", SERVER, ["vllm_server_base_url: no vLLM server answers at http://localhost:9 .* --model out/sft --port 9$", "use_vllm"]),
        ("ed4_gemma", SCRATCH, ["use_vllm: true needs a saved model, and this one is made from scratch; train it in a stage before", "use_vllm"]),
    ],
)  # fmt: skip
def test_vllm_that_cannot_generate_here_is_found_before_training(recipe, overrides, problems):
    run = run_of(recipe, "grpo", *overrides)
    found = run.vllm_problems(run.trainer_config(bf16=False), wait=True)
    assert len(found) == len(problems), found
    assert all(re.match(f"stages.grpo.trainer.{problem}", line) for problem, line in zip(problems, found, strict=True))


def test_the_devices_of_rewards_have_to_be_here():
    options = ["--stages.grpo.rewards.foresight.model", "me/it", "--stages.grpo.rewards.foresight.device", "cuda:99"]
    with pytest.raises(UserError, match="stages.grpo.rewards.foresight.device: 'cuda:99' is not available"):
        run_of("empath_tiny", "grpo", *options).check_devices()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected adapter_config.json or config.json, found nothing"),
        ({"config.json": "{}"}, "Unrecognized model"),
        ({"config.json": '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'}, "is a generative model"),
        ({"config.json": '{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}'}, None),
    ],
)
def test_the_model_of_a_reward_is_looked_at_before_training(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run = run_of("empath_tiny", "grpo", "--stages.grpo.rewards.foresight.model", str(tmp_path))
    with pytest.raises(UserError, match=message) if message else nullcontext() as found:
        run.check_reward_models()
    assert not message or str(found.value).startswith(f"stages.grpo.rewards.foresight.model: {tmp_path}")


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (["Emotion", "EmotionalPolarity", "Empathy"], True),
        (["LABEL_0", "LABEL_1", "LABEL_2"], True),  # nobody named them
        (["Empathy", "EmotionalPolarity", "Emotion"], False),
        (["LABEL_0", "LABEL_1"], False),
        (["sad", "joyful", "angry"], False),
    ],
)
def test_a_model_with_other_outputs_than_the_stage_is_refused(make_classifier, names, fits):
    run = run_of("wassa_tiny", "reward")
    folder = make_classifier({"a": [0.0] * len(names)}, id2label=dict(enumerate(names)), problem_type="regression")
    model = run.stage.model.model_copy(update={"name_or_path": folder, "from_scratch": None})
    if fits:
        assert len(run.load_model(model)[0].score(["a"])[0]) == 3
    else:
        with pytest.raises(
            UserError, match=f"its outputs are {', '.join(names)}; those of stage reward .* are Emotion, E"
        ):
            run.load_model(model)

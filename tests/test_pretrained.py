"""SmolLM2 of `make small-models`, from its GGUF file and in 4 bits: what a user does with a pretrained model, as short as it goes."""

import json
from pathlib import Path

import pytest
import torch
from peft.utils.save_and_load import load_peft_weights

from empathy_trl import Chat, generate, load_model, run_recipe
from empathy_trl.models.adapters import adapter_outputs, difference, example_inputs, merge_adapter
from empathy_trl.models.gguf import PROBE
from empathy_trl.tags import REACT
from empathy_trl.trainers.shared_prefix.mixin import SharedPrefixMixin
from tests.recipes.scripts import script, without_pictures
from tests.rewards.test_real_servers import KEY, check_scores, llama_server

pytestmark = [pytest.mark.slow, pytest.mark.pretrained]

# on a CPU, a step takes bitsandbytes 20 to 100 seconds
RECIPE = """
model: {{name_or_path: {model}, load_in_4bit: true, lora: {{r: 4}}}}
data: {{name: ed4, path: sample}}
trainer: {{bf16: false, gradient_checkpointing: false, max_steps: 2, learning_rate: 1.0e-3, logging_steps: 1}}
evaluation: {{limit: 1, max_new_tokens: 2}}
stages:
  sft: {{task: sft, trainer: {{per_device_train_batch_size: 1}}}}
  grpo:
    task: grpo
    model: {{name_or_path: stage:sft}}
    rewards: {{letter: {{import: "tests.test_pretrained:first_letter"}}}}
    trainer:
      {{shared_prefix: true, per_device_train_batch_size: 2, num_generations: 2, max_completion_length: 4, temperature: 1.5}}
"""


def first_letter(completions, **columns):
    """Differs within most groups, unlike a reward for a format that the model has not learned."""
    return [float(ord(completion[0]["content"][:1] or " ")) for completion in completions]


@pytest.fixture(scope="module")
def trained(smollm2, tmp_path_factory):
    """Folder of a run, and what it warned of about shared prompts."""
    pytest.importorskip("bitsandbytes", reason="needs the extra quantization")
    folder, warnings = tmp_path_factory.mktemp("run"), []
    (folder / "small.yaml").write_text(RECIPE.format(model=smollm2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedPrefixMixin, "_warn_once", lambda trainer, *message: warnings.append(message))
        yield run_recipe(str(folder / "small.yaml"), output_dir=folder / "out"), warnings


def test_sft_and_grpo_train_its_adapter_and_share_prompts(trained):
    folder, warnings = trained
    assert not warnings
    steps = {
        stage: [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
        for stage in ("sft", "grpo")
    }
    assert all(row["grad_norm"] > 0 for row in steps["sft"] if "grad_norm" in row)
    assert any(row["grad_norm"] > 0 for row in steps["grpo"] if row.get("reward_std"))
    before, after = (load_peft_weights(str(folder / stage), device="cpu") for stage in ("sft", "grpo"))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)


def test_the_merged_model_is_its_adapter_on_the_unquantised_base_and_near_that_on_the_4_bit_base(trained, tmp_path):
    folder = trained[0] / "grpo"
    model, tokenizer = load_model(folder)
    inputs = example_inputs(model, tokenizer)
    quantised = adapter_outputs(load_model(folder, load_in_4bit=True)[0], inputs)
    merged, change = merge_adapter(model, inputs, name="merged", folder=tmp_path)
    print(change, difference(quantised, merged, inputs), sep="\n")
    assert change.same == 1 and change.largest < 1e-3 * change.effect
    assert difference(quantised, merged, inputs).same > 0.4  # 4 bits change a small model more than two steps do


# ---- from a GGUF file ----

STAGED = """
model: {{name_or_path: {model}, dtype: {dtype}, lora: {{r: 8}}}}
data: {{name: empath, path: sample, reflections: keep, max_words: 60, instruction: "React, respond, reflect."}}
trainer: {{bf16: false, gradient_checkpointing: false, per_device_train_batch_size: 2, save_strategy: "no"}}
evaluation: {{limit: 1, max_new_tokens: 40}}
stages:
  sft: {{task: sft, trainer: {{max_steps: 12, warmup_steps: 2, learning_rate: 3.0e-3}}}}
  grpo:
    task: grpo
    model: {{name_or_path: stage:sft}}
    rewards: {{stage_format: {{}}}}
    trainer: {{max_steps: 1, num_generations: 2, max_completion_length: 16, learning_rate: 1.0e-5}}
"""
SITUATIONS = ["I lost my job today.", "My sister had a baby in 2024!", "Nobody called on my birthday."]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One folder for what is made of the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMPATHY_TRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        without_pictures(patch)
        yield


@pytest.mark.usefixtures("cache")
def test_a_gguf_file_is_the_saved_folder_token_by_token(smollm2, smollm2_gguf):
    (model, tokenizer), (same, again) = load_model(smollm2), load_model(smollm2_gguf)
    weights, others = model.state_dict(), same.state_dict()
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    assert tokenizer([PROBE, *SITUATIONS])["input_ids"] == again([PROBE, *SITUATIONS])["input_ids"]
    answers = generate(model, tokenizer, SITUATIONS, max_new_tokens=16)
    assert answers == generate(same, again, SITUATIONS, max_new_tokens=16) and all(answers)


@pytest.mark.usefixtures("cache")
def test_an_adapter_on_a_gguf_file_reacts_first_and_is_the_same_after_merging_pushing_and_pulling(
    smollm2_gguf, hub_server, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(STAGED.format(model=smollm2_gguf, dtype="bfloat16"))
    (tmp_path / "exact.yaml").write_text(STAGED.format(model=smollm2_gguf, dtype="float32"))
    folder = run_recipe("train.yaml", output_dir=tmp_path / "out") / "grpo"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(smollm2_gguf)

    chat = Chat(folder, temperature=0, max_new_tokens=24)
    for situation in SITUATIONS:
        assert next(chunk.part for chunk in chat.stream(situation) if chunk.text.strip()) == REACT
    assert len(chat.history) == 6

    assert script("hub")(["push", str(folder), "--repo_id", "ann/staged", "--merge_adapter"]) == 0
    assert script("hub")(["pull", "ann/staged"]) == 0
    measure = ["--recipe", "exact.yaml", "--output_dir", "again", "--model", str(folder), "outputs/hub/ann/staged"]
    assert script("evaluate")(measure) == 0
    adapter, merged = (
        json.loads(file.read_text())["metrics"] for file in sorted(tmp_path.glob("again/*/eval_test.json"))
    )
    assert adapter.keys() == merged.keys()
    files = tmp_path.glob("again/*/predictions_test.jsonl")
    assert len({json.loads(file.read_text())["completion"] for file in files}) == 1
    for name, figure in adapter.items():
        assert merged[name]["value"] == pytest.approx(figure["value"], rel=1e-4, nan_ok=True), name


@pytest.mark.usefixtures("cache")
def test_llama_cpp_serves_the_same_file_as_judge_and_as_model(smollm2_gguf, tmp_path, monkeypatch):
    for name in ("JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    (tmp_path / "staged.yaml").write_text(STAGED.format(model=smollm2_gguf, dtype="bfloat16"))
    completions = []
    with llama_server(smollm2_gguf) as url:
        check_scores(url, "smollm2")
        chat = Chat("openai:smollm2", base_url=url, system="Be kind.", temperature=0, max_new_tokens=64)
        assert all(chat.say(situation) for situation in SITUATIONS[:2])
        for model, server in ((str(smollm2_gguf), []), ("openai:smollm2", ["--base_url", url])):
            measure = [
                "--recipe",
                str(tmp_path / "staged.yaml"),
                "--model",
                model,
                "--output_dir",
                str(tmp_path / Path(model).name),
                *server,
            ]
            assert script("evaluate")(measure) == 0
            completions.append(
                json.loads((tmp_path / Path(model).name / "predictions_test.jsonl").read_text())["completion"]
            )
    assert completions[0].split()[:2] == completions[1].split()[:2], completions

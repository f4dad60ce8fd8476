"""What --check says of a recipe without running it."""

import re
import shutil

import pytest
import torch

from empathy_trl import check
from empathy_trl.check import describe, trainer_options
from empathy_trl.errors import UserError
from empathy_trl.recipe import load_recipe


@pytest.mark.parametrize(
    ("override", "verdict"),
    [
        (["--stages.grpo.trainer.max_completion_length", "10000000", "--model.from_scratch.max_length", "20000000"],
         "cannot run on this machine: about .* GB of memory"),
        (["--stages.grpo.trainer.num_train_epochs", "2"], r"The recipe is sound\.$"),
        (["--stages.grpo.trainer.skip_solved", "4"], "None is left out in this training, which ends after epoch 4\n"),
        pytest.param(
            ["--trainer.bf16", "true"], r"on this machine: half precision .* needs a GPU; set it to false to train without one\.$",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)  # fmt: skip
def test_the_verdict_compares_the_plan_with_the_machine(tmp_path, override, verdict):
    assert re.search(verdict, describe(load_recipe("ed4_tiny", override), tmp_path))


@pytest.mark.faults
def test_parameters_are_counted_whole_under_every_engine(sharded_loading, tmp_path):
    assert "parameters 799,680 of 799,680 trained" in describe(load_recipe("ed4_tiny"), tmp_path)


def test_processes_on_a_cpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(check, "_memory_here", lambda: 15e9)
    assert check._verdict([], [], 10e9, []) == "The recipe is sound."
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    assert "about 20 GB of memory are needed by 2 processes, 15 GB are available" in check._verdict([], [], 10e9, [])


def test_the_plan_names_the_model_of_foresight(tmp_path):
    overrides = ["--stages.grpo.rewards.foresight.model", "me/similarity"]
    plan = describe(load_recipe("empath_tiny", overrides), tmp_path)
    assert "downloads: reward model me/similarity (not in the Hub's cache)\n" in plan


def test_the_size_of_a_pretrained_model_comes_from_its_config(tiny_folder, tmp_path):
    sft = ["--stages.grpo", "null", "--stages.sft.model.name_or_path"]
    plan = describe(load_recipe("ed4_tiny", [*sft, "me/base"]), tmp_path)
    how = "download it, or give a folder with --model.name_or_path"
    assert f"parameters unknown: the model is not in the Hub's cache; {how}\n" in plan
    assert "downloads: model me/base (not in the Hub's cache)\n" in plan and "memory " not in plan
    plan = describe(load_recipe("ed4_tiny", [*sft, str(tiny_folder)]), tmp_path)
    assert re.search(r"parameters ([\d,]+) of \1 trained", plan) and "downloads: nothing\n" in plan
    (tmp_path / "broken").mkdir()
    with pytest.raises(UserError, match="model.name_or_path: .*broken cannot be read: "):
        describe(load_recipe("ed4_tiny", [*sft, str(tmp_path / "broken")]), tmp_path)
    (tmp_path / "broken" / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    with pytest.raises(UserError, match="broken: cannot be read: expected tokenizer.json or .*, found config.json"):
        describe(load_recipe("ed4_tiny", [*sft, str(tmp_path / "broken")]), tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("recipe", "overrides", "found"),
    [
        ("empath_tiny", ["--model.from_scratch.max_length", "200", "--evaluation.max_new_tokens", "9", "--stages.grpo.trainer.max_completion_length", "9"], "context    200 positions; 117 training prompts lose their oldest turns"),
        ("empath_tiny", ["--model.from_scratch.max_length", "200"], "sft: test: row 49 has 60 tokens in its prompt and up to 160 in its completion, but the model has 200 positions; lower data.max_words, lower evaluation.max_new_tokens, or"),
        ("godel_tiny", [], "context    no limit of length"),
        ("ed4_tiny", ["--model.name_or_path", "me/base"], "context    unknown; prompts are compared with the model's positions when the run starts"),
    ],
)  # fmt: skip
def test_prompts_are_compared_with_the_positions(tmp_path, recipe, overrides, found):
    base = ["--model.from_scratch", "null"] if "--model.name_or_path" in overrides else []
    try:
        plan = describe(load_recipe(recipe, [*base, *overrides]), tmp_path)
    except UserError as error:
        plan = str(error)
    assert found in plan


def stage_of(name, stage, *overrides):
    return load_recipe(name, list(overrides), training=False).stages[stage]


@pytest.mark.parametrize("processes, sequences", [("1", 24), ("4", 96)])
def test_sequences_per_step(monkeypatch, processes, sequences):
    monkeypatch.setenv("WORLD_SIZE", processes)
    stage = stage_of(
        "ed4_tiny", "grpo", "--stages.grpo.trainer.per_device_train_batch_size", "8",
        "--stages.grpo.trainer.gradient_accumulation_steps", "3", "--stages.grpo.trainer.num_generations", "8",
    )  # fmt: skip
    assert trainer_options(stage)["sequences"] == sequences


@pytest.mark.faults
@pytest.mark.parametrize(
    ("refuses", "says"),
    [
        (
            "messages[0].role == 'system'",
            "template   changes the prompts: the system message opens the",
        ),
        ("messages[-1].role == 'user'", r"\(system, user\): no$"),
        ("false", "template   writes no special token behind a reply"),
        ("false", None),
    ],
)
def test_the_plan_says_what_the_chat_template_does_not_take(tiny_folder, tmp_path, refuses, says):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    template = folder / "chat_template.jinja"
    template.write_text(f"{{% if {refuses} %}}{{{{ raise_exception('no') }}}}{{% endif %}}{template.read_text()}")
    if says and "no special token" in says:
        template.write_text(template.read_text().replace("{{ eos_token }}", ""))
    recipe = load_recipe("empath_tiny", ["--stages.sft.model.name_or_path", str(folder)])
    try:
        plan = describe(recipe, tmp_path)
    except UserError as error:
        plan = str(error)
    assert re.search(says, plan) if says else "template" not in plan


@pytest.mark.faults
def test_the_plan_counts_what_max_length_cuts_and_drops_and_refuses_one_that_leaves_nothing(tmp_path, monkeypatch):
    sft = ["--stages.grpo", "null", "--trainer.max_length"]
    assert "lengths    max_length 1024 cuts none of 140 rows; prompts have 52 / 68 / 90 tokens" in describe(
        load_recipe("ed4_tiny", sft[:2]), tmp_path
    )
    plan = describe(load_recipe("ed4_tiny", [*sft, "72"]), tmp_path)
    assert "max_length 72 cuts 0 prompts and 106 completions, and drops 27 of 140 rows (no room for" in plan
    monkeypatch.setattr("empathy_trl.check.SAMPLED", 50)
    assert " would cut none (counted on 47 of 140 rows)" in describe(load_recipe("ed4_tiny", [*sft, "72"]), tmp_path)
    with pytest.raises(UserError, match="^stages.sft.trainer.max_length: 40 drops all 47 rows, .* 54 / 68 / 74 tokens"):
        describe(load_recipe("ed4_tiny", [*sft, "40"]), tmp_path)


@pytest.mark.faults
def test_rows_that_no_batch_takes_are_counted_and_too_few_for_one_are_refused(tmp_path):
    portion = ["--stages.grpo.data.portion"]
    plan = describe(load_recipe("ed4_tiny", [*portion, "[0, 0.11]"]), tmp_path)
    assert "lengths    every epoch leaves out 5 of 61 rows, which do not fill a batch of 8\n" in plan
    with pytest.raises(
        UserError, match="^stages.grpo: a batch needs 8 rows, but only 5 can be used, so nothing would be trained"
    ):
        describe(load_recipe("ed4_tiny", [*portion, "[0, 0.01]"]), tmp_path)


@pytest.mark.faults
def test_the_plan_refuses_a_reward_that_cannot_take_the_columns(tmp_path):
    with pytest.raises(
        UserError, match=r"^rewards.own: cannot be called: .* 'text'; .*columns of the data: text, label"
    ):
        describe(
            load_recipe("ed4_tiny", ["--stages.grpo.rewards.own.import", "tests.rewards.own_rewards:reads_label"]),
            tmp_path,
        )


def test_a_model_that_is_neither_here_nor_in_the_cache_is_said_with_the_nearest_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    (tmp_path / "model").mkdir()
    plan = describe(
        load_recipe("ed4_tiny", ["--stages.grpo", "null", "--stages.sft.model.name_or_path", "modle"]), tmp_path
    )
    assert "downloads: model modle (not in the Hub's cache; did you mean model?)\n" in plan
    assert "It cannot run on this machine: HF_HUB_OFFLINE is set, and the Hub's cache does not have modle." in plan

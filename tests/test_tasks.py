"""Task -> trainer."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from empathy_trl.check import describe
from empathy_trl.models.classifier import new_classifier
from empathy_trl.models.label_schema import Targets
from empathy_trl.models.load import load_model
from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.stages import stage_runs
from empathy_trl.tasks import TASKS


def test_the_seed_alone_decides_the_weights_of_an_adapter_on_an_encoder(tmp_path):
    scratch = SimpleNamespace(architecture="roberta", hidden_size=16, layers=1, heads=2, vocab_size=300, max_length=32)
    base = new_classifier(
        SimpleNamespace(from_scratch=scratch), Targets("classify", {"x": ("a", "b")}), seed=0, texts=["hello"]
    )
    for part in base:
        part.save_pretrained(tmp_path / "base")

    def first_weight(seed, drawn_before):
        torch.rand(drawn_before)  # by an earlier stage of the same run, or nothing where that one was skipped
        overrides = ["--model.name_or_path", str(tmp_path / "base"), "--trainer.max_length", "32"]
        overrides += ["--trainer.bf16", "false", "--seed", str(seed)]
        run = stage_runs(load_recipe("wassa_reward", overrides, training=False), tmp_path / "out")["turns"]
        trainer = TASKS["regress"].build(run)
        return next(weight for name, weight in trainer.model.named_parameters() if "lora_A" in name)

    assert torch.equal(first_weight(1, 0), first_weight(1, 5))
    assert not torch.equal(first_weight(1, 0), first_weight(2, 0))


TWO_ADAPTERS = """
task: sft
data: {{name: ed4, path: sample}}
trainer: {{bf16: false, gradient_checkpointing: false, max_steps: 1, save_strategy: "no"}}
stages:
  sft:
    model: {{name_or_path: {base}, lora: {{r: 4, alpha: 8, dropout: 0.0}}}}
  grpo:
    task: grpo
    model: {{name_or_path: "stage:sft"}}
    rewards: {{format: {{}}}}
    trainer: {{num_generations: 2}}
"""


@pytest.fixture(scope="module")
def an_adapter(tiny_folder, tmp_path_factory):
    """A recipe of two stages, and the folder of its run, in which the first one has left an adapter that says something."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "two.yaml").write_text(TWO_ADAPTERS.format(base=tiny_folder))
    trainer = TASKS["sft"].build(stage_runs(load_recipe(folder / "two.yaml"), folder)["sft"])
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    trainer.save_model(str(folder / "sft"))
    return folder


SAME = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("lora", "plan", "rank", "is_merged"),
    [
        (None, "stage:sft brings one of rank 4, which is trained further", 4, False),
        ({"r": 4, "alpha": 8, "dropout": 0}, "stage:sft brings one of rank 4, which is trained further", 4, False),
        ({"r": 4, "alpha": 8, "dropout": 0, "target_modules": SAME}, "which is trained further", 4, False),
        ({"r": 16}, "merged, and a new one is trained (r 4 → 16, alpha 8 → 32, dropout 0.0 → 0.05)", 16, True),
        (
            {"r": 4, "alpha": 8, "dropout": 0, "target_modules": ["q_proj"]},
            "a new one is trained (target_modules all-linear → [q_proj])", 4, True,
        ),
    ],
)  # fmt: skip
def test_a_second_adapter_is_what_the_recipe_says(an_adapter, tmp_path, lora, plan, rank, is_merged):
    shutil.copytree(an_adapter / "sft", tmp_path / "out" / "sft")
    recipe = load_recipe(an_adapter / "two.yaml", ["--stages.grpo.model.lora", json.dumps(lora)] if lora else [])
    assert plan in describe(recipe, tmp_path / "out")
    run = stage_runs(recipe, tmp_path / "out")["grpo"]
    tokens = torch.tensor([[5, 60, 61, 62]])
    for _ in range(2):  # the second time as after a crash
        trainer = TASKS["grpo"].build(run)
        adapter = trainer.model.peft_config["default"]
        assert adapter.r == rank and (run.folder / "merged_base").is_dir() == is_merged
        earlier, _ = load_model(tmp_path / "out" / "sft")
        with torch.no_grad():  # a new adapter says nothing yet
            assert torch.allclose(trainer.model(tokens).logits, earlier(tokens).logits, atol=1e-5)
    trainer.save_model(str(run.folder))
    run.folder.rename(tmp_path / "moved")
    again, _ = load_model(tmp_path / "moved")
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, earlier(tokens).logits, atol=1e-5)

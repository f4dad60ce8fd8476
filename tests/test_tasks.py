"""Task -> trainer."""

from types import SimpleNamespace

import torch

from empathy_trl.models.classifier import new_classifier
from empathy_trl.models.label_schema import Targets
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

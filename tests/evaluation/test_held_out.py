"""Figures while training: they change nothing, choose the best checkpoint, and survive an interruption."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from safetensors.torch import load_file

from empathy_trl.errors import UserError
from empathy_trl.evaluation.answers import EmotionEvaluator, LabelEvaluator
from empathy_trl.evaluation.held_out import HeldOutEvaluation, check_held_out, plan
from empathy_trl.evaluation.metrics.bootstrap import mean_figure
from empathy_trl.recipe import load_recipe
from empathy_trl.recipe.stages import stage_runs
from empathy_trl.tasks import train_stage
from empathy_trl.trainers.callbacks import logged_rows
from tests.trainers.settings import assert_identical

REWARDS = {"format": {"tags": ["reasoning", "answer"]}, "length": {"min": 2, "max": 4}}
TRAINER = {
    "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "learning_rate": 0.01, "logging_steps": 2,
    "max_steps": 4, "dataloader_pin_memory": False, "per_device_train_batch_size": 4, "save_steps": 1, "report_to": "none",
}  # fmt: skip
ROLLOUTS = {"num_generations": 2, "max_completion_length": 6}
LORA = {"r": 2, "alpha": 4, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
ENCODER = {"architecture": "roberta", "hidden_size": 16, "layers": 1, "heads": 2, "vocab_size": 300, "max_length": 64}
# what differs between the stages of the same test: task, model and trainer
KINDS = {
    "sft": {"task": "sft", "evaluation": {"temperature": 1.0}},
    "grpo": {"task": "grpo", "rewards": REWARDS, "trainer": ROLLOUTS},
    "ppo": {"task": "ppo", "rewards": REWARDS, "trainer": ROLLOUTS | {"num_iterations": 2}},
    "lora": {"task": "grpo", "rewards": REWARDS, "trainer": ROLLOUTS | {"beta": 0.1}, "model": {"lora": LORA}},
    "classify": {
        "task": "classify", "data": {"name": "intents", "portion": [0.0, 0.2]}, "trainer": {"max_length": 32},
        "model": {"from_scratch": ENCODER, "name_or_path": None},
    },
}  # fmt: skip
EVERY = {"every": 1, "rows": 5}


@pytest.fixture
def make_run(tmp_path, tiny_folder):
    """Return a function that returns the `StageRun` of a kind, with changes to its evaluation and its trainer."""

    def make(kind: str, folder: str, evaluation: dict, **trainer):
        stage = {"model": {}, "data": {"name": "ed4", "portion": [0.0, 0.1]}} | KINDS[kind]
        stage["model"] = {"name_or_path": str(tiny_folder)} | stage["model"]
        stage["trainer"] = TRAINER | stage.get("trainer", {}) | trainer
        stage["evaluation"] = {"batch_size": 2, "max_new_tokens": 4} | stage.get("evaluation", {}) | evaluation
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"stages": {kind: stage}}))
        return stage_runs(load_recipe(recipe), tmp_path / folder)[kind]

    return make


def weights_in(folder: Path) -> dict:
    """Return all weights in a folder and the ones below it, without those of its checkpoints."""
    files = [
        file for file in sorted(folder.glob("**/*.safetensors")) if "checkpoint" not in str(file.relative_to(folder))
    ]
    return {f"{file.relative_to(folder)}/{key}": value for file in files for key, value in load_file(file).items()}


def rows_of(folder: Path) -> list[dict]:
    """Return the logged rows without what a clock decides."""
    timed = ("step_time", "train_runtime", "per_second", "runtime")
    return [{key: row[key] for key in row if not key.endswith(timed)} for row in logged_rows(folder / "metrics.jsonl")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_is_the_same_with_and_without_figures_also_when_an_evaluation_is_interrupted(kind, make_run):
    plain, watched = make_run(kind, "plain", {}), make_run(kind, "watched", EVERY)
    train_stage(plain)
    assert plain.fingerprint == watched.fingerprint

    evaluate, calls = HeldOutEvaluation._figures, []

    def interrupted(self):
        figures = evaluate(self)
        calls.append(dict(figures))  # the trainer adds the epoch to its own
        if len(calls) == 3:
            raise KeyboardInterrupt
        return figures

    with patch.object(HeldOutEvaluation, "_figures", interrupted):
        with pytest.raises(KeyboardInterrupt):
            train_stage(watched)
        train_stage(watched)
    assert len(calls) == 5  # the third step is taken and evaluated again
    assert_identical(weights_in(plain.folder), weights_in(watched.folder))
    rows = rows_of(watched.folder)
    figures = [row for row in rows if "eval_n" in row]
    assert [row for row in rows if "eval_n" not in row] == rows_of(plain.folder)
    assert [row["step"] for row in figures] == [1, 2, 3, 4]
    assert calls[2] == calls[3]
    assert all(
        {"eval_accuracy", "eval_accuracy_low", "eval_accuracy_high"} <= row.keys() and row["eval_n"] == 5
        for row in figures
    )


def scripted(values: list[float], kind=EmotionEvaluator):
    """Return a patch: the evaluations of a training have these figures, one after the other."""
    left = iter(values)

    def score(self, stage, rows, train, predictions, rewards):
        value = next(left)
        names = ("accuracy", "macro_f1", "invalid_share", "mean_reasoning_words")
        return {"metrics": dict.fromkeys(names, mean_figure([value]))}, []

    return patch.object(kind, "score", score)


@pytest.mark.parametrize(
    ("kind", "figure", "values", "best", "last"),
    [
        ("grpo", "accuracy", [0.2, 0.4, 0.3, 0.4, 0.1, 0.9], 2, 4),  # among equals the first one; stops after two
        ("ppo", "invalid_share", [0.5, 0.7, 0.4, 0.6, 0.3, 0.3], 5, 6),  # where less is better
        ("lora", "macro_f1", [0.1, 0.5, 0.2, 0.6, 0.7, 0.8], 6, 6),
        ("classify", "macro_f1", [0.5, 0.6, 0.1, 0.2], 2, 4),
    ],
)
def test_the_best_checkpoint_is_kept_and_patience_ends_the_training(kind, figure, values, best, last, make_run):
    settings = {**EVERY, "best": figure, "patience": 2}
    run = make_run(kind, "best", settings, max_steps=6, save_steps=4, save_total_limit=1)
    with scripted(values, LabelEvaluator if kind == "classify" else EmotionEvaluator):
        train_stage(run)
    assert all("eval_n" in row or "eval_loss" not in row for row in rows_of(run.folder)), "another figure would choose"
    record = json.loads((run.folder / "run.json").read_text())["best"]
    assert record == {
        "figure": figure, "step": best, "value": values[best - 1], "last_step": last, "last_value": values[last - 1],
        "n": 5, "evaluations": last, "kept_step": best,
    }  # fmt: skip
    kept = run.folder / f"checkpoint-{best}"
    assert_identical(weights_in(run.folder), weights_in(kept))


def test_a_run_that_was_killed_after_it_had_decided_to_stop_trains_no_further(make_run, caplog):
    run = make_run("sft", "stopped", {**EVERY, "best": "accuracy", "patience": 1})
    killed = patch("empathy_trl.tasks.write_card", side_effect=KeyboardInterrupt)
    with scripted([0.4, 0.2]), killed, pytest.raises(KeyboardInterrupt):
        train_stage(run)
    run.read_folder().save(status="running")  # killed a moment earlier
    with scripted([]):
        train_stage(run)
    assert max(row["step"] for row in rows_of(run.folder)) == 2
    assert "missing keys" not in caplog.text  # of tied weights
    assert caplog.text.count("stage sft ends after step 2 of ") == 2  # in both sessions
    assert_identical(weights_in(run.folder), weights_in(run.folder / "checkpoint-1"))


@pytest.mark.parametrize(
    ("evaluation", "trainer", "problems"),
    [
        (
            {"rows": 8, "patience": 2},
            {},
            ["rows: 8 has no effect without evaluation.every", "patience: 2 has no effect"],
        ),
        ({"every": 2, "patience": 2}, {}, ["patience: 2 has no effect without evaluation.best"]),
        ({"every": 0}, {}, ["every: "]),
        (
            {"every": 2, "best": "accuracy"},
            {"save_strategy": "no"},
            ["best: 'accuracy' needs checkpoints", "of stage grpo is 'no'"],
        ),
        ({}, {"eval_strategy": "steps"}, ["trainer.eval_strategy: cannot be set here; use evaluation.every"]),
    ],
)
def test_settings_that_do_not_go_together_are_refused(evaluation, trainer, problems, make_run):
    with pytest.raises(UserError) as error:
        make_run("grpo", "refused", evaluation, **trainer)
    assert all(problem in str(error.value) for problem in problems)


def test_a_figure_has_to_be_one_of_the_stage_and_the_plan_says_what_happens(make_run):
    check_held_out(make_run("sft", "run", {}))
    with pytest.raises(UserError, match="stages.sft.evaluation.best: unknown figure 'acuracy'; did you mean accuracy"):
        check_held_out(make_run("sft", "run", {**EVERY, "best": "acuracy"}))
    run = make_run("sft", "run", {"every": 3, "rows": 64, "best": "accuracy", "patience": 2, "split": "valid"})
    check_held_out(run)
    assert plan(run, 8, 120) == (
        "64 rows of valid every 3 steps: 3 evaluations; ends with the checkpoint that is best by accuracy, and early "
        "after 2 evaluations without a better one; its final figure on valid is optimistic"
    )
    one = make_run("sft", "run", {"every": 3, "rows": 1, "best": "accuracy", "patience": 1})
    assert "1 row of valid every" in plan(one, 8, 120) and "early after one evaluation without" in plan(one, 8, 120)
    off = make_run("sft", "run", {"every": None, "rows": 64, "best": "accuracy"})  # as an override leaves it
    assert plan(off, 8, 120) is None
    assert (
        plan(make_run("sft", "run", {"every": 9}), 8, None)
        == "all rows of valid after the last of 8 steps: one evaluation"
    )
    assert off.stage.evaluation == make_run("sft", "run", {}).stage.evaluation


def test_what_chooses_the_weights_is_in_the_fingerprint_and_what_only_shows_figures_is_not(make_run):
    run = lambda **evaluation: make_run("sft", "run", evaluation)
    plain = run()
    assert run(**EVERY).fingerprint == plain.fingerprint
    chosen = run(**EVERY, best="accuracy").fingerprint
    same = [run(**EVERY, best="accuracy", **more).fingerprint for more in ({"limit": 3}, {"batch_size": 7})]
    others = [run(**EVERY, best="accuracy", **more).fingerprint for more in ({"patience": 3}, {"temperature": 0.5})]
    others += [run(**EVERY, best="macro_f1").fingerprint, run(every=2, best="accuracy").fingerprint]
    assert set(same) == {chosen}
    assert len({plain.fingerprint, chosen, *others}) == 6
    assert run(**EVERY, best="accuracy", patience=2).evaluation_settings() == plain.evaluation_settings()

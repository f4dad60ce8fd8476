"""What `import empathy_trl` offers: every name does what it says with nothing but the others."""

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import empathy_trl
from empathy_trl import (
    Chat,
    DataError,
    JudgeFailed,
    RecipeError,
    StopTraining,
    UserError,
    compare,
    evaluate_model,
    explain_rewards,
    generate,
    load_classifier,
    load_data,
    load_model,
    load_recipe,
    load_rewards,
    predict,
    pull,
    push,
    run_recipe,
)

REWARDS = {"emotion_accuracy": {}, "format": {"weight": 0.2, "tags": ["reasoning", "answer"]}}
QUESTION = [{"role": "user", "content": "Which emotion is it? I was so scared when the lights went out."}]
GOOD, BAD = "<reasoning>scared, lights</reasoning><answer>afraid</answer>", "afraid"


def replies(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_an_editor_reads_what_is_exported():
    tree = ast.parse(Path(empathy_trl.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.asname or alias.name: f"{node.module}:{alias.name}" if alias.asname else node.module
        for node in block.body
        for alias in node.names
    }
    assert typed == empathy_trl._EXPORTS
    assert sorted([*typed, "__version__"]) == empathy_trl.__all__ == dir(empathy_trl)


@pytest.mark.parametrize("name", sorted(set(empathy_trl.__all__) - {"__version__"}))
def test_what_is_exported_is_documented_and_callable(name):
    exported = getattr(empathy_trl, name)
    assert callable(exported) and len(inspect.getdoc(exported)) > 20


def test_import_is_light_and_fast():
    code = "import sys, empathy_trl; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()  # the time of the processor, which does not depend on what else the machine does
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 1.0  # 0.3 s with a margin for the interpreter's own start


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(AttributeError, match="no attribute 'load_recipes'.*load_recipe"):
        empathy_trl.load_recipes  # noqa: B018


def test_errors_are_one_family():
    for kind in (DataError, JudgeFailed, RecipeError, StopTraining):
        assert issubclass(kind, UserError)


def test_a_recipe_loads_by_its_name():
    recipe = load_recipe("ed4_tiny")
    assert list(recipe.stages) == ["sft", "grpo"]
    assert load_recipe("ed4_tiny", ["--seed", "7"]).seed == 7
    with pytest.raises(RecipeError, match="ed4_tin: no such recipe.*ed4_tiny"):
        load_recipe("ed4_tin")
    for overrides in ("--seed 7", {"seed": 7}):
        with pytest.raises(RecipeError, match="overrides: .* is not a list; expected such as"):
            load_recipe("ed4_tiny", overrides)


def test_data_loads_by_the_name_of_a_corpus(tmp_path):
    assert {"prompt", "label"} <= set(load_data("ed4", "test").column_names)
    assert {"prompt", "completion"} <= set(load_data("ed4", task="sft").column_names)
    with pytest.raises(RecipeError, match="data.pth: unknown key; did you mean path?"):
        load_data("ed4", pth="x")
    with pytest.raises(UserError, match="unknown corpus 'ed5'.*ed4"):
        load_data("ed5")
    with pytest.raises(UserError, match=f"{tmp_path} has no table called test"):
        load_data("ed4", "test", path=tmp_path)
    with pytest.raises(UserError, match="ed4 data has no columns for task 'regress'"):
        load_data("ed4", task="regress")


def test_rewards_are_functions_with_a_weight():
    accuracy, form = load_rewards(REWARDS)
    assert [accuracy.__name__, accuracy.weight, form.__name__, form.weight] == ["emotion_accuracy", 1.0, "format", 0.2]
    asked = {"prompts": [QUESTION] * 2, "completions": replies(GOOD, BAD), "completion_ids": None}
    assert form(**asked) == [1.0, 0.0]
    assert accuracy(**asked, label=["afraid"] * 2)[0] == 1.0
    assert load_rewards([accuracy, form])[1].weight == 0.2
    with pytest.raises(UserError, match="emotion_acuracy"):
        load_rewards({"emotion_acuracy": {}})


class Weighing:
    """A user's reward with an attribute that is called as the recipe's weight."""

    weight = 3.0

    def __call__(self, prompts, completions, **columns):
        return [self.weight] * len(completions)


def test_a_users_own_weight_is_left_alone():
    (reward,) = load_rewards({"own": {"import": f"{__name__}:Weighing", "weight": 0.5}})
    assert reward.weight == 0.5 and reward(prompts=["a"], completions=["b"]) == [3.0]


def test_rewards_are_explained():
    table = explain_rewards(REWARDS, [QUESTION] * 2, replies(GOOD, BAD), label=["afraid"] * 2)
    assert table.rows[0]["total"] == pytest.approx(1.2) and "format" in str(table)


def test_a_model_loads_by_its_name_and_answers(tiny_folder):
    model, tokenizer = load_model(tiny_folder)
    texts = generate(model, tokenizer, ["I was scared.", QUESTION], max_new_tokens=3)
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)
    assert generate(model, tokenizer, [[{"role": "user", "content": "I was scared."}]], max_new_tokens=3) == texts[:1]
    with pytest.raises(UserError, match="prompts: a single text; expected a list"):
        generate(model, tokenizer, "I was scared.", max_new_tokens=3)
    with pytest.raises(UserError, match="model: '.*' is a name; expected a loaded model"):
        generate(str(tiny_folder), tokenizer, ["I was scared."], max_new_tokens=3)
    for wrong in (3, [], [{"text": "I was scared."}]):
        with pytest.raises(UserError, match=r"prompts\[1\]: .* expected a text or chat messages"):
            generate(model, tokenizer, ["I was scared.", wrong], max_new_tokens=3)


def test_a_model_is_talked_to(tiny_folder):
    chat = Chat(tiny_folder, seed=1, max_new_tokens=3)
    with pytest.warns(UserWarning, match="the reply was cut off at 3 tokens"):
        reply = chat.say("I was scared.")
    assert [message["content"] for message in chat.history] == ["I was scared.", reply]


def test_a_classifier_predicts_by_folder_and_loaded(make_classifier):
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    folder = make_classifier(
        {"good": [0.0, 9.0], "bad": [9.0, 0.0]}, problem_type="single_label_classification", **labels
    )
    by_folder, loaded = predict(folder, ["good", "bad"]), predict(load_classifier(folder), ["good", "bad"])
    assert [max(group, key=group.get) for row in by_folder for group in row.values()] == ["yes", "no"]
    for one, other in zip(by_folder, loaded, strict=True):
        for group, shares in one.items():
            assert other[group] == pytest.approx(shares, abs=1e-4)


@pytest.mark.faults
@pytest.mark.parametrize(
    "repo_id", ["a/b/c", "ann/x--y", "ann/x..y", "ann/x.git", "-ann/x", "ann/x-", "ann/ж", "a" * 97]
)
def test_names_on_the_hub_are_checked_before_anything_is_sent(tmp_path, repo_id):
    with pytest.raises(UserError, match=f"repo_id: '{repo_id}' is not a Hub id; expected USER/REPO"):
        push(tmp_path, repo_id)
    with pytest.raises(UserError, match="expected USER/REPO"):
        pull("nobody")


def test_a_recipe_runs_evaluates_and_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # outputs/ is made here
    small = ["--stages.sft.trainer.max_steps", "1", "--stages.grpo.trainer.max_steps", "1", "--evaluation.limit", "8"]
    small += ["--evaluation.max_new_tokens", "4", "--stages.grpo.trainer.per_device_train_batch_size", "8"]
    small += ["--stages.grpo.trainer.max_completion_length", "4", "--model.from_scratch.hidden_size", "16"]
    folder = run_recipe("ed4_tiny", small)
    assert folder == Path("outputs/ed4_tiny") and (folder / "report.md").is_file()
    change = compare(folder / "sft", folder / "grpo")["metrics"]["accuracy"]
    assert change["change"] == pytest.approx(change["b"] - change["a"]) and change["n"] == 8

    recipe = load_recipe("ed4_tiny", small)
    model, tokenizer = load_model(folder / "grpo")
    stage = recipe.stages["grpo"]
    again = evaluate_model(model=model, tokenizer=tokenizer, stage=stage, output_dir=tmp_path / "again")
    first = json.loads((folder / "grpo" / "eval_test.json").read_text(encoding="utf-8"))
    assert again["metrics"] == first["metrics"] and again["model"] == str(folder / "grpo")
    with pytest.raises(UserError, match="overrides: .* given with a loaded recipe"):
        run_recipe(recipe, small)

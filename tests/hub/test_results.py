"""Evaluations survive a model card: written, loaded by huggingface_hub, and read back."""

import copy
import json
import re

import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.reply_classifiers import digests
from empathy_trl.hub.leaderboard.entries import make_entry
from empathy_trl.hub.results import from_results, is_ours, judge_digest, read_entries, to_results

FIGURE = {"value": 0.775, "low": 0.7, "high": 0.8416666666666667, "n": 120}
EVALUATION = {
    "recipe": "ed4_tiny",
    "stage": "grpo",
    "model": "/home/somebody/outputs/ed4_tiny/grpo",
    "kind": "emotions",
    "data": {"name": "ed4", "source": "sample", "revision": None, "split": "test", "n": 120, "rows": "d44c24e2fd67d8f3",
             "decoding": "greedy decoding"},
    "metrics": {"accuracy": FIGURE, "invalid_share": {"value": 0.0, "low": 0.0, "high": 0.0, "n": 120}},
    "baselines": {"majority": {"accuracy": {"value": 0.25, "low": 0.175, "high": 0.325, "n": 120}}, "own": {"accuracy": FIGURE}},
    "confusion": {"rows": [], "columns": [], "counts": []},
    "seed": 42,
    "metrics_version": 1,
    "versions": {"trl": "1.16.0"},
}  # fmt: skip


def evaluation(**changes) -> dict:
    """A copy of `EVALUATION`; `data` is merged."""
    made = copy.deepcopy(EVALUATION)
    return made | changes | {"data": made["data"] | changes.get("data", {})}


def through_a_card(results: list[EvalResult], tmp_path) -> list[EvalResult]:
    data = ModelCardData(model_name="user/model", eval_results=results)
    (tmp_path / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n# Card\n", encoding="utf-8")
    return ModelCard.load(tmp_path / "README.md").data.eval_results


def expected(made: dict, **data) -> dict:
    kept = ("recipe", "stage", "kind", "metrics", "baselines", "seed", "metrics_version")
    return {key: made[key] for key in kept} | {"model": "user/model", "data": made["data"] | data}


def test_a_card_gives_back_what_was_evaluated(tmp_path):
    results = through_a_card(to_results(EVALUATION), tmp_path)
    assert from_results(results, "user/model") == [expected(EVALUATION)]


@pytest.mark.parametrize(
    ("source", "kept", "dataset_type"),
    [
        ("sample", "sample", "empathy-trl-sample-ed4"),
        ("facebook/empathetic_dialogues", "facebook/empathetic_dialogues", "facebook/empathetic_dialogues"),
        ("/home/somebody/secret/my_rows", "my_rows", "my_rows"),
        ("../shared/data/ed_easy_4", "ed_easy_4", "ed_easy_4"),
        ("~/rows/table.csv", "table.csv", "table.csv"),
    ],
)
def test_of_local_data_only_the_name_is_told(source, kept, dataset_type, tmp_path):
    made = evaluation(data={"source": source, "revision": "main"})
    results = through_a_card(to_results(made), tmp_path)
    assert {result.dataset_type for result in results} == {dataset_type}
    assert from_results(results, "user/model") == [expected(made, source=kept)]
    assert "somebody" not in (tmp_path / "README.md").read_text()


def test_rewards_that_judged_are_told_as_a_digest(tmp_path):
    judged_by = {"llm_judge": {"weight": 1.0, "base_url": "http://10.0.0.7:8000", "cache_dir": None}}
    made = evaluation(kind="replies", judged_by=judged_by)
    back = from_results(through_a_card(to_results(made), tmp_path), "user/model")[0]
    assert back["judged_by"] == judge_digest(judged_by) == judge_digest(back["judged_by"])
    assert "10.0.0.7" not in (tmp_path / "README.md").read_text()


def test_other_models_that_judged_are_told_by_their_weights_alone(tmp_path):
    classifiers = {"emotion": {"model": "/home/somebody/emotion32", "weights": "0123456789abcdef"}}
    made = evaluation(kind="replies", metrics={"reward": FIGURE, "emo_acc": FIGURE}, classifiers=classifiers)
    back = from_results(through_a_card(to_results(made), tmp_path), "user/model")[0]
    assert back["classifiers"] == digests(back) == digests(made) == {"emotion": "0123456789abcdef"}
    assert "somebody" not in (tmp_path / "README.md").read_text()
    assert make_entry(back, "user/model").evaluation["classifiers"] == back["classifiers"]


@pytest.mark.parametrize(
    "other",
    [evaluation(data={"split": "valid"}), evaluation(data={"rows": "0000", "n": 8}), evaluation(metrics_version=2),
     evaluation(data={"decoding": "temperature 0.7"})],
)  # fmt: skip
def test_two_evaluations_in_one_card_stay_apart(other, tmp_path):
    results = through_a_card(to_results(EVALUATION) + to_results(other), tmp_path)
    assert from_results(results, "user/model") == [expected(EVALUATION), expected(other)]


def test_an_evaluation_of_an_older_version_keeps_what_it_has(tmp_path):
    made = evaluation()
    for key in ("rows", "decoding"):
        del made["data"][key]
    del made["metrics_version"]
    back = from_results(through_a_card(to_results(made), tmp_path), "user/model")[0]
    assert back["metrics_version"] is None and back["data"]["rows"] is None and back["metrics"] == made["metrics"]


def test_only_the_model_s_own_figures_have_plain_types():
    types = [result.metric_type for result in to_results(EVALUATION)]
    assert types == ["accuracy", "invalid_share", "baseline_majority_accuracy", "baseline_own_accuracy"]


def foreign(value=0.9, **changes) -> EvalResult:
    required = {"task_type": "text-generation", "dataset_type": "gsm8k", "dataset_name": "GSM8K", "metric_type": "acc"}
    return EvalResult(**required | {"metric_value": value} | changes)


def damaged(**changes) -> EvalResult:
    result = to_results(EVALUATION)[0]
    return foreign(**vars(result) | {"value": result.metric_value} | changes)


@pytest.mark.parametrize(
    "result",
    [
        foreign(), foreign("20.0 ± 1.2"), foreign("85%"), foreign(None), foreign([1]), foreign(metric_args={"n": 3}),
        foreign(dataset_args=["a list"]), damaged(metric_value="0.775"), damaged(metric_value=float("nan")),
        damaged(metric_value=True), damaged(metric_value=10**400), damaged(metric_args=None), damaged(metric_args={"metric": "accuracy", "low": 0.1}),
        damaged(metric_args={"metric": "accuracy", "low": float("nan"), "high": 1.0, "n": 3}),
        damaged(dataset_args={}), damaged(dataset_args="text"), damaged(dataset_split=None),
        damaged(dataset_args=to_results(EVALUATION)[0].dataset_args | {"kind": "../../etc"}),
        damaged(dataset_args={1: 2}), damaged(metric_args={None: 2}),
    ],
)  # fmt: skip
def test_foreign_and_damaged_results_are_left_out(result):
    assert not is_ours(result)
    assert from_results([result, *to_results(EVALUATION)], "user/model") == [expected(EVALUATION)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "not an evaluation"),
        ({"kind": "unheard"}, "kind: got 'unheard', expected one of emotions"),
        ({"data": {"n": "many"}}, "not an evaluation"),
        ({"metrics": {"accuracy": FIGURE | {"value": float("nan")}}}, "metrics.accuracy: nan is not a finite number"),
        ({"metrics": {"accuracy": {"value": 0.5}}}, "not an evaluation"),
    ],
)
def test_what_is_no_evaluation_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        to_results(evaluation(**wrong) if wrong else {})


def test_the_index_is_plain_json():
    index = ModelCardData(model_name="m", eval_results=to_results(EVALUATION)).to_dict()["model-index"]
    assert len(index[0]["results"]) == 1
    json.dumps(index, allow_nan=False)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("dataset: {id: a/b, task: t}\n  value: 1", "line 2: dataset.task_id: missing; expected a text"),
        ("dataset: a/b\n  value: 1", "line 2: dataset: 'a/b'; expected a mapping with id and task_id"),
        ("value: 1", "line 2: dataset: missing; expected a mapping with id and task_id"),
        ("dataset:\n    id: a/b\n    task_id: 7\n  value: 1", "line 4: dataset.task_id: 7; expected a text"),
        ("dataset: {id: a/b, task_id: t}\n  value: high", "line 3: value: 'high'; expected a number"),
        ("dataset: {id: a/b, task_id: t}\n  value: true", "line 3: value: true; expected a number"),
        (
            "dataset: {id: a/b, task_id: t}\n  value: 1\n  source: {name: x}",
            "line 4: source.url: missing; expected an address",
        ),
        (
            "dataset: {id: a/b, task_id: t}\n  value: 1\n  source: {url: 'javascript:x'}",
            "line 4: source.url: 'javascript:x'",
        ),
        ("5", "line 2: 5; expected a mapping with dataset and value"),
        ("value: 1\n  value: 2", "2: duplicate key 'value'|3: duplicate key 'value'"),
        ("[", "while parsing"),
    ],
)
def test_a_malformed_entry_is_named_by_line_and_key_and_the_others_count(item, message, tmp_path):
    good = (
        "- dataset: {id: cais/hle, task_id: default}\n  value: 20.9\n  date: 2026-01-15\n  evaluation_framework: hle\n"
    )
    path = tmp_path / "x.yaml"
    path.write_text(good)
    (only,), problems = read_entries(path, "x.yaml")
    assert (only.dataset_id, only.task_id, only.value, only.date, problems) == (
        "cais/hle",
        "default",
        20.9,
        "2026-01-15",
        [],
    )
    path.write_text(f"# ours\n- {item}\n{good}")
    entries, problems = read_entries(path, "x.yaml")
    assert len(problems) == 1 and re.search(f"^x.yaml.*({message})", problems[0])
    assert entries == ([only] if ", line" in problems[0] else []), "what is no YAML at all has no entries"

"""The report of a made-up run: its numbers are those of the artefacts, its links lead somewhere, it draws a picture."""

import json
import os
import re

import pytest

from empathy_trl.errors import UserError
from empathy_trl.evaluation import base as artefacts
from empathy_trl.evaluation.metrics.agreement import score_emotions, score_predictions
from empathy_trl.evaluation.metrics.bootstrap import mean_figure, paired_bootstrap, with_interval
from empathy_trl.evaluation.report import summary, write_report
from empathy_trl.io import write_text

LABELS = ["sad", "joyful", "angry", "afraid"]
GOLD = LABELS * 30


def answers(wrong_every):
    """Labels of which every so many-th is wrong, and some of these invalid."""
    result = list(GOLD)
    for row in range(0, len(GOLD), wrong_every):
        result[row] = "happy" if row % 5 == 0 else LABELS[(LABELS.index(GOLD[row]) + 1) % 4]
    return result


def add_stage(run, name, given, log=(), first_row=0, data=None):
    completions = [f"<reasoning>| `so` # it is</reasoning><answer>{label}</answer>" for label in given]
    metrics, predictions, confusion = score_emotions(completions, GOLD, LABELS)
    rows = [
        {
            "index": first_row + i,
            "text": f"situation <b>number</b> {i}",
            "label": GOLD[i],
            "prediction": predictions[i],
            "correct": predictions[i] == GOLD[i],
            "completion": completions[i],
        }
        for i in range(len(GOLD))
    ]
    evaluation = {
        "recipe": "ed4_tiny",
        "stage": name,
        "model": f"outputs/ed4_tiny/{name}",
        "kind": "emotions",
        "data": {"source": "sample", "split": "test", "n": len(GOLD)} | (data or {}),
        "metrics": metrics,
        "baselines": {
            "majority": score_predictions(["sad"] * len(GOLD), GOLD, LABELS)[0],
            "tfidf_logreg": score_predictions(answers(4), GOLD, LABELS)[0],
        },
        "confusion": confusion,
        "seed": 3,
        "versions": {"torch": "2.13.0"},
    }
    split = evaluation["data"]["split"]
    artefacts.write_predictions(run / name, split, rows)
    artefacts.write_eval(run / name, split, evaluation)
    if log:
        write_text(run / name / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    return evaluation


SFT_LOG = [{"step": step, "loss": 3.0 - step / 10} for step in range(1, 21)] + [{"step": 20, "train_loss": 2.0}]
GRPO_LOG = [
    {"step": step, "loss": float("nan"), "reward": step / 100, "kl": 0.5, "completions/mean_length": 20.0}
    for step in range(1, 41)
]


@pytest.fixture
def two_stages(tmp_path):
    run = tmp_path / "ed4_tiny"
    evaluations = {
        "grpo": add_stage(run, "grpo", answers(6), GRPO_LOG),
        "sft": add_stage(run, "sft", answers(2), SFT_LOG),
    }
    (run / "recipe.yaml").write_text("name: ed4_tiny\nstages:\n  sft: {task: sft}\n  grpo: {task: grpo}\n")
    return run, evaluations


def cells(report, start):
    """The cells of the Markdown table row that begins with `start`."""
    line = next(line for line in report.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_numbers_of_the_report_are_those_of_the_artefacts(two_stages):
    run, evaluations = two_stages
    path = write_report(run)
    assert path == run / "report.md"
    report = path.read_text(encoding="utf-8")

    for name in ("sft", "grpo"):
        metrics = evaluations[name]["metrics"]
        columns = ("accuracy", "macro_f1", "invalid_share", "mean_reasoning_words")
        assert cells(report, name) == [name, *(with_interval(metrics[column]) for column in columns), "120"]
    for key, name in (("majority", "majority class"), ("tfidf_logreg", "TF-IDF + logistic regression")):
        metrics = evaluations["sft"]["baselines"][key]
        figures = [with_interval(metrics["accuracy"]), with_interval(metrics["macro_f1"])]
        assert cells(report, name) == [name, *figures, "", "", "120"]
    for label in LABELS:
        figures = [
            with_interval(evaluations[name]["metrics"][f"{share}_{label}"])
            for name in ("sft", "grpo")
            for share in ("precision", "recall")
        ]
        assert cells(report, label) == [label, *figures, "30"]


def test_headline_is_the_paired_comparison_of_first_and_last_stage(two_stages):
    run, _ = two_stages
    correct = [[answer == gold for answer, gold in zip(answers(n), GOLD, strict=True)] for n in (2, 6)]
    change = paired_bootstrap(*correct)
    report = write_report(run).read_text(encoding="utf-8")
    assert (
        "**From sft to grpo, test accuracy went from 0.500 to 0.833: "
        f"+0.333 [{change['low']:+.3f}, {change['high']:+.3f}] on the same 120 rows.**" in report
    )
    assert "excludes 0: the change is established" in report
    assert "majority class 0.250; TF-IDF + logistic regression 0.750." in report


@pytest.mark.parametrize(
    ("last", "verdict"),
    [(answers(2), "includes 0"), (answers(2)[:-1] + ["sad"], "includes 0"), (["sad"] * 120, "excludes 0")],
)
def test_headline_says_when_a_change_is_not_established(tmp_path, last, verdict):
    add_stage(tmp_path, "sft", answers(2))
    add_stage(tmp_path, "grpo", last)
    (tmp_path / "recipe.yaml").write_text("stages: {sft: {}, grpo: {}}")
    assert f"{verdict}: the change is" in write_report(tmp_path).read_text(encoding="utf-8")


def test_the_summary_has_the_figures_of_the_report_and_at_most_ten_lines(two_stages):
    run, evaluations = two_stages
    advice = [{"step": 20, "cause": "longer", "message": "rewards.a*b rose"}] * 2
    for name, record in {"sft": {"train_seconds": 60.0}, "grpo": {"train_seconds": 70.0, "advice": advice}}.items():
        write_text(run / name / "run.json", json.dumps(record))
    sft, grpo = (with_interval(evaluations[name]["metrics"]["accuracy"]) for name in ("sft", "grpo"))
    change = re.search(r": ([+][^ ]+ \[.*?\]) on the same", write_report(run).read_text()).group(1)
    assert summary(run).splitlines() == [
        "ed4_tiny: trained in 2 min",
        f"test accuracy, n = 120: sft {sft}, grpo {grpo}",
        f"sft to grpo: {change}, established; baselines: majority class 0.250, TF-IDF + logistic regression 0.750",
        "advice: 2 warnings about the training; the report says what to do",
        f"report: {run}/report.md",
        f"plot:   {run}/report.png",
        f"model:  {run}/grpo",
        f"next:   empathy-trl chat --model {run}/grpo",
    ]
    for number in range(4):  # rewards of their own: none can be compared with another
        add_stage(run, f"s{number}", GOLD, data={"n": number})
        result = artefacts.read_eval(run / f"s{number}", "test")
        artefacts.write_eval(run / f"s{number}", "test", result | {"judged_by": {"reward": number}})
    (run / "recipe.yaml").unlink()
    assert len(summary(run).splitlines()) <= 10


def test_a_stage_with_the_figure_of_its_reasoning_beside_one_of_an_earlier_version(two_stages):
    folder = two_stages[0] / "grpo"
    evaluation, rows = artefacts.read_eval(folder, "test"), artefacts.read_predictions(folder, "test")
    evaluation["metrics"]["grounded_reasoning"] = mean_figure([1, 0] * 60)
    artefacts.write_eval(folder, "test", evaluation)
    artefacts.write_predictions(folder, "test", [row | {"grounded": row["index"] % 2 == 0} for row in rows])
    report = write_report(two_stages[0]).read_text(encoding="utf-8")
    assert "| words of reasoning | grounded reasoning | n |" in report
    assert cells(report, "grpo")[5] == "0.500 [0.408, 0.592]" and cells(report, "sft")[5] == ""
    assert re.search(r"    grpo +\w+ \((right|wrong), (not )?grounded\): ", report)


def test_training_table(two_stages):
    report = write_report(two_stages[0]).read_text(encoding="utf-8")
    assert "## Rows" not in report and "## Advice" not in report  # a run of an earlier version
    (two_stages[0] / "sft" / "run.json").write_text('{"rows": {"train": {"summary": "9 read; 1 rows dropped"}}}')
    advice = [{"step": 20, "cause": "longer", "message": "rewards.a*b rose"}]
    (two_stages[0] / "grpo" / "run.json").write_text(json.dumps({"advice": advice}))
    rows, report = write_report(two_stages[0]).read_text(encoding="utf-8").split("## Training")
    assert rows.endswith("## Rows\n\n- sft, train: 9 read; 1 rows dropped\n\n")
    assert cells(report, "sft") == ["sft", "20", "2.85 → 1.05", "", "", ""]
    assert cells(report, "grpo") == ["grpo", "40", "", "0.025 → 0.385", "0.5 → 0.5", "20 → 20"]
    assert "## Advice\n\n- grpo, step 20: rewards.a\\*b rose.\n\n## First rows" in report


def test_figures_while_training_are_shown_best_and_last(two_stages):
    best = {"figure": "macro_f1", "step": 20, "value": 0.75, "last_step": 40, "last_value": 0.5, "n": 64}
    record = {"best": best | {"evaluations": 4, "kept_step": 20}}
    (two_stages[0] / "grpo" / "run.json").write_text(json.dumps(record))
    shown = re.search(
        r"^Figures on valid while.*?(?=\n\n##)", write_report(two_stages[0]).read_text(), re.DOTALL | re.MULTILINE
    )[0]
    assert shown.endswith(
        "- grpo: macro f1 0.750 at best (step 20), 0.500 at the last step (40); 4 evaluations on 64 rows of valid. The model is "
        "that of step 20."
    )


def test_changes_from_stage_to_stage_and_the_first_rows(two_stages):
    run, _ = two_stages
    add_stage(run / "sft", "untrained", ["happy"] * len(GOLD))
    text = write_report(run).read_text(encoding="utf-8")
    changes = text.split("### Changes")[1].split("##")[0]
    assert "|  | untrained to sft | sft to grpo | untrained to grpo |" in changes
    correct = [[answer == gold for answer, gold in zip(answers(n), GOLD, strict=True)] for n in (2, 6)]
    change = paired_bootstrap(*correct)
    assert cells(changes, "accuracy")[2] == f"+0.333 [{change['low']:+.3f}, {change['high']:+.3f}]"
    assert cells(changes, "invalid answers")[1].startswith("-0.9")
    first = text.split("## First rows")[1].split("##")[0]
    assert re.findall(r"^Row (\d+):", first, flags=re.MULTILINE) == list("01234")
    assert re.findall(r"^    (\w+)  ", first, flags=re.MULTILINE)[2:5] == ["untrained", "sft", "grpo"]
    rows = artefacts.read_predictions(run / "grpo", "test")
    artefacts.write_predictions(run / "grpo", "test", rows[1:])
    text = write_report(run).read_text(encoding="utf-8")
    assert re.search(
        r"^- sft to grpo: not compared, because .* lacks 1 of the other's, such as index 0", text, re.MULTILINE
    )
    assert "\nRow 1:" in text.split("## First rows")[1] and "\nRow 0:" not in text


def test_examples_show_rows_gained_lost_and_wrong_in_both(tmp_path):
    first, last = list(GOLD), list(GOLD)
    first[9], last[9] = "happy", GOLD[9]  # gained
    first[5], last[5] = GOLD[5], "sad"  # lost
    first[7], last[7] = "sad", "angry"  # wrong in both
    first[2], last[2] = "happy", "happy"  # the same
    first[11], last[11] = "sad", GOLD[11]  # a second gain
    add_stage(tmp_path, "sft", first)
    add_stage(tmp_path, "grpo", last)
    (tmp_path / "recipe.yaml").write_text("stages: {sft: {}, grpo: {}}")
    examples = write_report(tmp_path).read_text(encoding="utf-8").split("## Examples")[1].split("## How")[0]
    assert re.findall(r"^Row (\d+):", examples, flags=re.MULTILINE) == ["9", "5", "7"]
    assert "    sft        invalid (wrong): <reasoning>| `so`" in examples
    assert f"    grpo       {GOLD[9]} (right): | `so` # it is\n" in examples
    shown = [line for line in examples.splitlines() if "<" in line or "|" in line]
    assert len(shown) >= 9 and all(line.startswith("    ") for line in shown), "generated text must be in code blocks"


def test_a_model_evaluated_before_its_training_comes_before_its_stage(two_stages):
    run, _ = two_stages
    evaluation = add_stage(run / "sft", "untrained", ["happy"] * len(GOLD))
    evaluation["metrics"]["next_word_accuracy"] = mean_figure([1, 0] * 60)
    artefacts.write_eval(run / "sft" / "untrained", "test", evaluation)
    report = write_report(run).read_text(encoding="utf-8")
    table = report.split("## Stages side by side")[1].split("##")[0]
    assert re.findall(r"^\| (\w+) \| 0", table, flags=re.MULTILINE) == ["untrained", "sft", "grpo"]
    assert cells(report, "untrained, next word, calibrated")[1:] == ["0.500 [0.408, 0.592]", "", "", "", "120"]
    assert "**From untrained to grpo, test accuracy went from 0.000" in report
    assert "    untrained  invalid (wrong)" in report and "| untrained | 0 |" not in report


def test_every_link_leads_to_a_file(two_stages):
    run, _ = two_stages
    add_stage(run / "sft", "untrained", answers(3))
    (run / "grpo" / "samples.md").write_text("x")
    links = re.findall(r"\]\(([^)]+)\)", write_report(run).read_text(encoding="utf-8"))
    assert {
        "report.png",
        "grpo/samples.md",
        "sft/eval_test.json",
        "sft/untrained/eval_test.json",
        "grpo/metrics.jsonl",
    } <= set(links)
    assert "sft/samples.md" not in links
    assert [link for link in links if not (run / link).is_file()] == []


def test_how_to_reproduce(two_stages):
    run, _ = two_stages
    report = write_report(run).read_text(encoding="utf-8")
    assert "    accelerate launch -m empathy_trl.commands run --recipe ed4_tiny.yaml --seed 3\n" in report
    assert f"--recipe {run / 'recipe.yaml'} --output_dir {run}_again\n" in report
    add_stage(run, "grpo", answers(6), data={"source": "my/data"})
    assert "--recipe ed4_tiny.yaml --seed 3 --data.path my/data\n" in write_report(run).read_text(encoding="utf-8")


def test_one_stage(tmp_path):
    evaluation = add_stage(tmp_path, "grpo", answers(6))
    report = write_report(tmp_path).read_text(encoding="utf-8")
    assert f"**grpo: test accuracy {with_interval(evaluation['metrics']['accuracy'])}, n = 120.**" in report
    assert "No training log." in report and "0: the change" not in report
    assert (tmp_path / "report.png").stat().st_size > 5000


def test_without_a_recipe_stages_stand_in_the_order_of_their_evaluation(tmp_path):
    add_stage(tmp_path, "zeta", answers(2))
    add_stage(tmp_path, "alpha", answers(6))
    os.utime(tmp_path / "zeta" / "eval_test.json", (1, 1))
    assert "**From zeta to alpha" in write_report(tmp_path).read_text(encoding="utf-8")


def test_folders_that_are_no_stage_of_the_recipe_are_left_out(two_stages):
    run, _ = two_stages
    (run / "sft").rename(run / "sft.0123abcd")
    report = write_report(run).read_text(encoding="utf-8")
    assert "**grpo: test accuracy" in report and "0123abcd" not in report


def test_stages_evaluated_on_other_rows_are_not_compared(two_stages):
    run, _ = two_stages
    add_stage(run, "grpo", answers(6), first_row=1000)
    report = write_report(run).read_text(encoding="utf-8")
    assert "**grpo: test accuracy" in report and "From sft" not in report


def test_another_split(tmp_path):
    add_stage(tmp_path, "grpo", answers(6), data={"split": "valid"})
    with pytest.raises(UserError, match=r"no stage with an eval_test\.json"):
        write_report(tmp_path)
    report = write_report(tmp_path, split="valid").read_text(encoding="utf-8")
    assert "grpo: valid accuracy" in report and "(grpo/eval_valid.json)" in report


def test_missing_predictions_are_named(two_stages):
    run, _ = two_stages
    (run / "sft" / "predictions_test.jsonl").unlink()
    with pytest.raises(UserError, match=r"sft/predictions_test\.jsonl: no such file"):
        write_report(run)

"""Evaluation of one model: the artefact formats, the rows, the settings and what they default to."""

import json
from types import SimpleNamespace

import accelerate
import pytest

from empathy_trl import io
from empathy_trl.data.ed4 import Ed4
from empathy_trl.errors import UserError
from empathy_trl.evaluation import answers, evaluate, generation
from empathy_trl.evaluation.base import read_eval, read_predictions, write_eval, write_predictions
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.models.api import ApiModel
from empathy_trl.recipe import Data, Evaluation, Model, Stage

LABELS = ["sad", "joyful", "angry", "afraid"]
ANSWERS = [f"<reasoning>two words</reasoning><answer>{label}</answer>" for label in ("sad", "joyful", "happy")]


def make_stage(task="grpo", data=None, **settings):
    return Stage(
        name="stage1",
        task=task,
        model=Model(name_or_path="unused"),
        data=Data(name="ed4", **(data or {})),
        evaluation=Evaluation(**{"max_new_tokens": 3, "batch_size": 4, **settings}),
        seed=7,
    )


def run(tiny, folder, stage=None, split="test", **settings):
    model, tokenizer = tiny
    return evaluate.evaluate_model(
        model=settings.pop("model", model),
        tokenizer=tokenizer,
        stage=stage or make_stage(),
        recipe_name="ed4_tiny",
        split=split,
        output_dir=folder,
        model_name="USER/model",
        **settings,
    )


@pytest.fixture
def scripted(monkeypatch):
    """Completions that take turns between right labels, wrong ones and an invalid one; notes the settings."""
    seen = {}

    def answers(model, tokenizer, prompts, **settings):
        seen.update(settings, prompts=prompts)
        return [ANSWERS[i % 3] for i in range(len(prompts))]

    monkeypatch.setattr(generation, "generate_completions", answers)
    return seen


def test_artefacts_have_exactly_the_public_format(tiny, tmp_path, scripted, capsys):
    result = run(tiny, tmp_path / "out", limit=12)
    files = ["confusion_test.png", "eval_test.json", "predictions_test.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    content = json.loads((tmp_path / "out" / "eval_test.json").read_text())
    assert content == result

    keys = ["recipe", "stage", "model", "kind", "data", "metrics", "baselines", "confusion"]
    assert list(content) == [*keys, "seed", "metrics_version", "versions"]
    assert [content[key] for key in ("recipe", "stage", "model", "seed")] == ["ed4_tiny", "stage1", "USER/model", 7]
    data = content["data"]
    assert list(data) == [
        "name",
        "source",
        "revision",
        "split",
        "n",
        "rows",
        "dropped",
        "shortened",
        "decoding",
        "limit",
        "cut_off",
    ]
    assert [data[key] for key in ("name", "source", "split", "n")] == ["ed4", "sample", "test", 12]
    assert data["decoding"] == "greedy decoding"
    shares = [f"{share}_{label}" for share in ("precision", "recall") for label in LABELS]
    plain = ["accuracy", "macro_f1", *shares]
    assert list(content["metrics"]) == [*plain, "invalid_share", "mean_reasoning_words", "grounded_reasoning"]
    assert {name: list(row) for name, row in content["baselines"].items()} == {"majority": plain, "tfidf_logreg": plain}
    for metrics in (content["metrics"], *content["baselines"].values()):
        assert all(list(figure) == ["value", "low", "high", "n"] for figure in metrics.values())
    assert content["metrics"]["invalid_share"]["value"] == pytest.approx(1 / 3)
    assert content["metrics"]["mean_reasoning_words"]["value"] == 2
    assert content["confusion"]["rows"] == LABELS
    assert sum(map(sum, content["confusion"]["counts"])) == 12
    assert {"torch", "transformers", "trl"} <= content["versions"].keys()

    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions_test.jsonl").read_text().splitlines()]
    assert all(
        list(row) == ["index", "text", "label", "prediction", "correct", "grounded", "completion"] for row in rows
    )
    assert [row["prediction"] for row in rows[:3]] == ["sad", "joyful", None]
    for key, name in (("correct", "accuracy"), ("grounded", "grounded_reasoning")):
        assert sum(row[key] for row in rows) / 12 == content["metrics"][name]["value"]

    table = capsys.readouterr().out
    for words in ("ed4_tiny / stage1: test of sample (n = 12)", "majority class", "TF-IDF", "invalid answers 33.3%"):
        assert words in table


def test_the_next_word_is_a_figure_of_its_own(tiny, tmp_path, scripted, capsys, monkeypatch):
    asked = {}

    def labels_of(model, tokenizer, prompts, beginning, labels, batch_size):
        asked.update(beginning=beginning, labels=list(labels), batch_size=batch_size)
        return ["sad"] * len(prompts)

    monkeypatch.setattr(answers, "next_words", labels_of)
    plain = run(tiny, tmp_path / "plain", limit=12)
    result = run(tiny, tmp_path, limit=12, next_word=True)
    assert asked == {"beginning": "The person feels", "labels": LABELS, "batch_size": 4}
    rows = read_predictions(tmp_path, "test")
    figure = result["metrics"].pop("next_word_accuracy")
    assert figure["value"] == sum(row["label"] == "sad" for row in rows) / 12 and figure["n"] == 12
    assert result["metrics"] == plain["metrics"] and {row["next_word"] for row in rows} == {"sad"}
    assert f"next word, calibrated         {with_interval(figure)}\n" in capsys.readouterr().out

    asked.clear()
    model = ApiModel("gpt", "http://localhost:1/v1")
    assert answers.EmotionEvaluator().next_words(model, None, make_stage(), None, None) is None
    assert "next word: left out, because gpt does not tell the probabilities" in capsys.readouterr().out
    monkeypatch.setattr(Ed4, "next_word", "")
    assert (
        "next_word_accuracy" not in run(tiny, tmp_path / "without", limit=12, next_word=True)["metrics"] and not asked
    )


def test_predictions_belong_to_their_rows(tiny, tmp_path, monkeypatch):
    """A model that answers by looking up the gold label of its prompt scores 1: nothing is shuffled on the way."""
    import empathy_trl.data

    dataset = empathy_trl.data.build(make_stage().data, "test", "grpo")
    gold = {prompt[-1]["content"]: label for prompt, label in zip(dataset["prompt"], dataset["label"], strict=True)}

    def oracle(model, tokenizer, prompts, **_):
        return [f"<answer>{gold[prompt[-1]['content']]}</answer>" for prompt in prompts]

    monkeypatch.setattr(generation, "generate_completions", oracle)
    result = run(tiny, tmp_path)
    assert result["metrics"]["accuracy"]["value"] == 1
    assert result["data"]["n"] == len(dataset)
    rows = [json.loads(line) for line in (tmp_path / "predictions_test.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(len(dataset)))
    assert [row["text"] for row in rows] == list(dataset["text"])


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_the_prompts_and_all_get_all_completions(monkeypatch, rank):
    shares = [[(0, "a"), (2, "c"), (4, "e")], [(1, "b"), (3, "d")]]

    def gather(own):
        assert own == shares[rank]
        return shares[0] + shares[1]

    state = SimpleNamespace(process_index=rank, num_processes=2, is_main_process=rank == 0)
    monkeypatch.setattr(accelerate, "PartialState", lambda: state)
    monkeypatch.setattr(accelerate.utils, "gather_object", gather)
    monkeypatch.setattr(generation, "PartialState", lambda: state)
    monkeypatch.setattr(generation, "generate_completions", lambda model, tokenizer, prompts, **_: prompts)
    assert generation.generate_shared(None, None, list("abcde"), 1, make_stage()) == list("abcde")


def test_settings_come_from_the_stage_unless_given(tiny, tmp_path, scripted):
    stage = make_stage(limit=5, batch_size=2, max_new_tokens=9)
    assert run(tiny, tmp_path, stage)["data"]["n"] == 5
    assert (scripted["batch_size"], scripted["max_new_tokens"]) == (2, 9)
    assert run(tiny, tmp_path, stage, limit=8, batch_size=3, split="valid")["data"]["n"] == 8
    assert scripted["batch_size"] == 3 and (tmp_path / "eval_valid.json").is_file()


@pytest.mark.faults
def test_prompts_that_are_too_long_are_refused_before_anything_is_generated(tiny, tmp_path, scripted):
    tiny[0].config.max_position_embeddings = 256
    with pytest.raises(
        UserError, match=r"stages.stage1: test: row \d+ has \d+ tokens in its prompt and up to 3 in its"
    ):
        run(tiny, tmp_path / "out", limit=12)
    assert not scripted


def test_baselines_know_the_whole_training_split_whatever_the_stage_saw(tiny, tmp_path, scripted):
    whole = run(tiny, tmp_path / "a", make_stage())["baselines"]
    part = run(tiny, tmp_path / "b", make_stage(data={"portion": (0.0, 0.1)}))["baselines"]
    assert part == whole
    assert whole["tfidf_logreg"]["accuracy"]["value"] > whole["majority"]["accuracy"]["value"] + 0.2


def test_a_limit_draws_the_same_rows_each_time_and_not_the_first_ones():
    rows = evaluate.chosen_rows(100, 10)
    assert rows == sorted(set(rows)) == evaluate.chosen_rows(100, 10) != list(range(10)) and len(rows) == 10
    assert evaluate.chosen_rows(4, 10) == evaluate.chosen_rows(4, None) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("ed4_tiny", {}, "stage: is a recipe; expected one of its stages"),
        (make_stage(), {"model": "me/model"}, "model: 'me/model' is a name; expected a loaded model"),
        (make_stage("dpo"), {}, r"stages\.stage1\.task: .*'dpo' .*tasks: sft, grpo, ppo, regress, classify"),
        (make_stage(), {"limit": 0}, "limit: got 0, expected a whole number above 0"),
        (make_stage("sft"), {"batch_size": -2}, "batch_size: got -2, expected"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tiny, tmp_path, stage, settings, message):
    with pytest.raises(UserError, match=message):
        run(tiny, tmp_path, stage, **settings)
    assert list(tmp_path.iterdir()) == []


def test_the_same_rows_have_one_digest_whatever_is_answered(tiny, tmp_path, monkeypatch):
    def answering(text):
        answers = lambda model, tokenizer, prompts, **_: [text] * len(prompts)
        monkeypatch.setattr(generation, "generate_completions", answers)

    answering("?")
    first = run(tiny, tmp_path / "a", limit=3)["data"]["rows"]
    answering("!")
    assert run(tiny, tmp_path / "b", limit=3)["data"]["rows"] == first
    assert run(tiny, tmp_path / "c", limit=4)["data"]["rows"] != first


SAVED = [
    {"index": 4, "text": "Ünïcode\u2028and\nlines", "label": "sad", "prediction": None, "correct": False},
    {"index": 7, "text": "<b>", "label": "sad", "prediction": "sad", "correct": True},
]


def test_what_is_written_is_read_back(tmp_path):
    folder = tmp_path / "new" / "folder"
    path = write_eval(folder, "valid", {"accuracy": 0.5, "model": "é"})
    assert path == folder / "eval_valid.json" and "é" in path.read_text(encoding="utf-8")
    assert read_eval(folder, "valid") == {"accuracy": 0.5, "model": "é"}

    path = write_predictions(folder, "test", SAVED)
    assert path == folder / "predictions_test.jsonl" and path.read_text(encoding="utf-8").count("\n") == 2
    assert read_predictions(folder, "test") == SAVED


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_no_json_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_eval(tmp_path, "test", {"accuracy": value})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = io.write_text(tmp_path / "file.txt", "old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        io.write_atomically(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

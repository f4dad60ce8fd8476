"""Kind `replies` with everything that it measures: rows that explain the means, tables that stay readable, reasons."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from empathy_trl.data.labelled import MECHANISMS
from empathy_trl.errors import UserError
from empathy_trl.evaluation import base as artefacts
from empathy_trl.evaluation import replies
from empathy_trl.evaluation.metrics.reply_classifiers import deciding
from empathy_trl.evaluation.report import write_report
from empathy_trl.hub.results import judge_digest
from empathy_trl.recipe import Data, Evaluation, Model, Stage
from empathy_trl.rewards import read_rewards

EVALUATOR = replies.ReplyEvaluator()
TURNS = ["my dog died", "i won", "my dog died", "hello"]
SAID, REFERENCES = ["so sorry <movie>", "great", "so sorry <movie>", ""], ["so sorry", "great <movie>", "how", "great"]
ROWS = Dataset.from_dict(
    {
        "prompt": [[{"role": "user", "content": turn}] for turn in TURNS],
        "text": TURNS,
        "reference": REFERENCES,
        "emotion": ["sad", "joyful", "sad", None],
        "recommends": [False, True, False, False],
    }
)
REWARDS = read_rewards({"length": {"min": 1, "max": 8}})[0]


@pytest.fixture
def classifiers(make_classifier):
    groups = {"label_groups": [[mechanism, ["0", "1", "2"]] for mechanism in MECHANISMS]}
    texts = sorted({*SAID, *REFERENCES} - {""})
    levels = {(turn, text): [4.0 * (i == place % 3) for i in range(3)] * 3 for turn in set(TURNS)
              for place, text in enumerate(texts)}  # fmt: skip
    two = {text: [4.0 * (text[0] == "s"), 4.0 * (text[0] != "s")] for text in texts}
    return {
        "epitome": make_classifier(levels, "epitome", **groups),
        "emotion": make_classifier(two, "emotion", id2label={0: "sad", 1: "joyful"}),
        "intent": make_classifier(two, "intent", id2label={0: "consoling", 1: "agreeing"}),
    }


def stage(classifiers=None, bertscore=None):
    evaluation = Evaluation(max_new_tokens=3, classifiers=classifiers, bertscore=bertscore)
    return Stage(
        name="ppo", task="ppo", model=Model(name_or_path="unused"), data=Data(name="wassa"), evaluation=evaluation
    )


def scored(classifiers=None, likelihoods=((6.0, 3), (4.0, 2), (2.0, 1), (2.0, 2)), bertscore=None):
    predictions = [replies.Prediction(*each) for each in zip(SAID, likelihoods, strict=True)]
    result, table = EVALUATOR.score(stage(classifiers, bertscore), ROWS, ROWS, predictions, REWARDS)
    about = {"recipe": "r", "stage": "ppo", "model": "m", "kind": "replies", "seed": 0, "versions": {}}
    return about | {"data": {"source": "sample", "split": "test", "n": 4}} | result, table


def test_every_metric_has_n_and_an_interval_and_a_heading(classifiers):
    result, _ = scored(classifiers)
    headings = {"reward", "reward_length", *replies.TITLES, *replies.DETAIL_TITLES} - {
        "format_adherence",
        "bertscore",
        "thought_words",
    }  # of staged ones; asked for; of models that think
    assert result["metrics"].keys() | result["left_out"].keys() == headings
    for metrics in (result["metrics"], *result["baselines"].values()):
        for name, figure in metrics.items():
            assert figure["low"] <= figure["value"] <= figure["high"] and 1 <= figure["n"] <= 4, name


def test_bertscore_is_measured_where_it_is_asked_for(classifiers):
    pytest.importorskip("bert_score", reason='pip install "empathy-trl[bertscore]"')
    result, table = scored(bertscore=classifiers["intent"])
    values = [row["metrics"]["bertscore"] for row in table]
    assert values[3] == 0.0 and 0 < values[0] < 1  # the last reply is empty
    assert result["metrics"]["bertscore"]["value"] == pytest.approx(sum(values) / 4)
    assert "BERTScore F1" in "\n".join(EVALUATOR.summary(result))


def test_who_judged_is_recorded_by_name_and_weights(classifiers, make_classifier):
    recorded = scored(classifiers)[0]["classifiers"]
    assert {kind: each["model"] for kind, each in recorded.items()} == classifiers
    assert scored()[0]["classifiers"] == {}
    scores = {text: [0.0, 1.0] for text in ("great", "so sorry")}
    make_classifier(scores, Path(classifiers["intent"]).name, id2label={0: "consoling", 1: "agreeing"})  # trained again
    again = scored(classifiers)[0]["classifiers"]
    assert again["intent"]["model"] == recorded["intent"]["model"]
    assert [kind for kind in again if again[kind]["weights"] != recorded[kind]["weights"]] == ["intent"]


def test_a_reward_model_is_known_by_its_weights_wherever_it_lies(make_classifier):
    def judged_by(folder, seed):
        texts = sorted({*SAID, *REFERENCES} - {""})
        settings = {"id2label": {0: "Empathy"}, "problem_type": "regression", "label_ranges": {"Empathy": [0, 5]}}
        model = make_classifier({text: [float(len(text) % 6)] for text in texts}, folder, seed, **settings)
        predictions = [replies.Prediction(reply, unavailable_reason="no model") for reply in SAID]
        return EVALUATOR.score(stage(), ROWS, ROWS, predictions, read_rewards({"empathy_model": {"model": model}})[0])[
            0
        ]

    one, moved, trained_again = (judged_by(*each)["judged_by"] for each in (("here", 0), ("there", 0), ("here", 1)))
    assert one["empathy_model"]["model"] != moved["empathy_model"]["model"]
    assert deciding(one) == deciding(moved) != deciding(trained_again)
    assert judge_digest(one) == judge_digest(moved) != judge_digest(trained_again)


def test_the_encoder_of_bertscore_is_recorded(classifiers):
    pytest.importorskip("bert_score", reason='pip install "empathy-trl[bertscore]"')
    recorded = scored(bertscore=classifiers["intent"])[0]["classifiers"]
    assert recorded.keys() == {"bertscore"} and recorded["bertscore"]["model"] == classifiers["intent"]


def test_a_mean_is_the_mean_of_its_rows(classifiers):
    result, table = scored(classifiers)
    assert json.loads(json.dumps(table)) == table
    names = table[0]["metrics"].keys()
    assert {"reward", "reward_length", "emo_acc", "intent_acc", "bleu_at_2", "item_ratio", "reply_words"} <= names
    assert not {"bleu_4", "distinct_2", "dist_at_1", "perplexity"} & names
    for name in names:
        values = [row["metrics"][name] for row in table if row["metrics"][name] is not None]
        figure = result["metrics"][name]
        assert figure["value"] == pytest.approx(sum(values) / len(values)) and figure["n"] == len(values)


def test_the_main_table_holds_the_main_figures_and_a_second_one_the_rest(classifiers, tmp_path):
    result, table = scored(classifiers)
    folder = tmp_path / "ppo"
    artefacts.write_eval(folder, "test", result)
    artefacts.write_predictions(folder, "test", [{"index": i} | row for i, row in enumerate(table)])
    report = write_report(tmp_path).read_text()
    main, rest = report.split("## More figures")
    assert "| BLEU-4 | perplexity of the reference | EMO-ACC | INTENT-ACC |" in main and "BLEU-1" not in main
    assert "| reference replies |" in main and "| majority class |" in main and "level 0 for every reply" not in main
    assert (
        "| BLEU-1 |" in rest and "level 0 for every reply" in rest and "| emotional reactions, level 0 to 2 |" in rest
    )


def test_what_was_not_measured_is_in_no_table_and_has_its_reason():
    result, _ = scored(likelihoods=[None] * 4)
    result["left_out"] = {"perplexity": "of a test"}
    assert "perplexity" not in EVALUATOR.column_titles(result) and "emo_acc" not in EVALUATOR.column_titles(result)
    lines = EVALUATOR.summary(result)
    assert lines[-1] == "perplexity of the reference: none, because of a test"
    assert result["baselines"].keys() == {"reference"} and "item_ratio" in result["metrics"]


def test_a_ratio_of_items_needs_data_that_recommend():
    predictions = [replies.Prediction(text, unavailable_reason="") for text in SAID]
    result, _ = EVALUATOR.score(stage(), ROWS.remove_columns("recommends"), ROWS, predictions, REWARDS)
    assert "item_ratio" not in result["metrics"]


def test_perplexity_is_that_of_the_model_that_replied(tiny):
    predictions = EVALUATOR.predict(*tiny, stage(), ROWS, batch_size=2)
    assert len(predictions) == 4 and all(
        each.likelihood[1] > 1 and each.unavailable_reason is None for each in predictions
    )
    result, _ = EVALUATOR.score(stage(), ROWS, ROWS, predictions, REWARDS)
    assert result["metrics"]["perplexity"]["value"] == pytest.approx(320, rel=0.5)  # of 320 tokens, none learned


def test_a_perplexity_can_be_computed_again_from_the_rows():
    result, table = scored()
    names, of_rows = EVALUATOR.statistics(result, table)["bootstrap"]
    value = of_rows(np.array([[0, 1, 2, 3], [0, 0, 0, 1]]))[:, names.index("perplexity")]
    assert value == pytest.approx(np.exp([14 / 8, 22 / 11])) and value[0] == result["metrics"]["perplexity"]["value"]
    assert "likelihood" not in scored(likelihoods=[None] * 4)[1][0]


def test_a_policy_that_was_asked_for_tags_has_no_perplexity(tiny):
    asked = [[{"role": "system", "content": "Write <answer>reply</answer>."}, *prompt] for prompt in ROWS["prompt"]]
    rows = ROWS.remove_columns("prompt").add_column("prompt", asked)
    predictions = EVALUATOR.predict(*tiny, stage(), rows, batch_size=4)
    result, _ = EVALUATOR.score(stage(), rows, rows, predictions, REWARDS)
    assert result["left_out"]["perplexity"].startswith("the prompt asks for tags")


def test_a_classifier_that_cannot_judge_stops_before_anything_is_generated(monkeypatch, classifiers):
    monkeypatch.setattr(replies, "generate_shared", lambda *_: pytest.fail("generated"))
    with pytest.raises(UserError, match=r"evaluation\.classifiers\.intent: ./none: no such folder"):
        EVALUATOR.predict(None, None, stage({"intent": "./none"}), ROWS, 4)
    unknown = ROWS.remove_columns("emotion").add_column("emotion", ["sad", "angry", None, "sad"])
    with pytest.raises(
        UserError, match=r"evaluation\.classifiers\.emotion: the data has the emotion 'angry'.*sad, joy"
    ):
        EVALUATOR.predict(None, None, stage({"emotion": classifiers["emotion"]}), unknown, 4)


def test_only_the_main_process_loads_classifiers(monkeypatch):
    monkeypatch.setattr(replies, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    monkeypatch.setattr(replies, "generate_shared", lambda *_: SAID)
    assert len(EVALUATOR.predict(None, None, stage({"intent": "./none"}), ROWS, 4)) == 4


def test_every_metric_is_documented():
    page = (Path(__file__).resolve().parents[2] / "docs" / "figures.md").read_text(encoding="utf-8")
    page = page.split("## Replies")[1].split("\n## ")[0]
    plain = [name for name in {**replies.TITLES, **replies.DETAIL_TITLES} if not name.startswith("epitome")]
    assert not [name for name in (*plain, *MECHANISMS, "epitome_<mechanism>") if f"`{name}`" not in page]

"""What classifiers say of replies: worked by hand from chosen logits, beside the rows that a reader needs."""

import numpy as np
import pytest

from empathy_trl.data.labelled import MECHANISMS
from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.reply_classifiers import check_configs, judge_replies, load_classifiers

TURNS = ["my dog died", "i won"]
PROMPTS = [[{"role": "user", "content": turn}] for turn in (*TURNS, *TURNS)]
REPLIES, REFERENCES = ["so sorry", "great", "ok", ""], ["so sorry", "how", "so sorry", "great"]
# (emotional reactions, interpretations, explorations) of what is said to either turn
LEVELS = {"so sorry": (2, 1, 0), "great": (1, 1, 0), "how": (0, 1, 2), "ok": (0, 1, 0)}
GROUPS = {"label_groups": [[mechanism, ["0", "1", "2"]] for mechanism in MECHANISMS]}


def logits(levels):
    return np.concatenate([np.eye(3)[level] * 4 for level in levels]).tolist()


def epitome(make_classifier, **settings):
    scores = {(turn, text): logits(levels) for turn in TURNS for text, levels in LEVELS.items()}
    return make_classifier(scores, "epitome", **(settings or GROUPS))


def labelled(make_classifier, folder, labels, chosen):
    scores = {text: (4 * np.eye(len(labels))[labels.index(label)]).tolist() for text, label in chosen.items()}
    return make_classifier(scores, folder, id2label=dict(enumerate(labels)), num_labels=len(labels))


def judge(models, emotions=None, replies=REPLIES, references=REFERENCES, prompts=PROMPTS):
    return judge_replies(load_classifiers(models), prompts, replies, references, emotions)


def test_levels_stand_beside_the_references_and_beside_a_constant(make_classifier):
    judged = judge({"epitome": epitome(make_classifier)})
    ours, theirs = [2, 1, 0, 0], [2, 0, 2, 1]  # an empty reply has level 0
    name = "epitome_emotional_reactions"
    assert judged.rows[name] == ours
    assert judged.rows[f"{name}_difference"] == [0, 1, -2, -1] and judged.rows[f"{name}_mse"] == [0, 1, 4, 1]
    assert judged.metrics[f"{name}_pearson"]["value"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
    reference, constant = judged.baselines["reference"], judged.baselines["constant_0"]
    assert reference[name]["value"] == 5 / 4 and f"{name}_mse" not in reference
    assert [constant[name + end]["value"] for end in ("", "_difference", "_mse")] == [0, -5 / 4, 9 / 4]
    assert judged.rows["epitome_explorations_mse"] == [0, 4, 0, 0]


def test_a_constant_has_no_correlation_and_a_reason(make_classifier):
    judged = judge({"epitome": epitome(make_classifier)}, replies=["ok"] * 4)
    assert not [name for name in judged.metrics if name.endswith("_pearson")]
    assert judged.left_out == {
        "epitome_emotional_reactions_pearson": "the replies all have the same level",
        "epitome_interpretations_pearson": "the replies and the references all have the same level",
        "epitome_explorations_pearson": "the replies all have the same level",
    }


def test_without_an_utterance_there_is_no_level(make_classifier):
    prompts = [[{"role": "system", "content": "reply"}], *PROMPTS[1:]]
    judged = judge({"epitome": epitome(make_classifier)}, prompts=prompts)
    assert judged.rows["epitome_emotional_reactions"] == [None, 1, 0, 0]
    assert judged.baselines["reference"]["epitome_emotional_reactions"]["n"] == 3


def test_emotions_are_those_of_the_dialogue(make_classifier):
    chosen = {"so sorry": "Sad", "great": "joyful", "how": "sad", "ok": "sad"}
    model = labelled(make_classifier, "emotion", ["sad", "joyful", "angry"], {k: v.lower() for k, v in chosen.items()})
    judged = judge({"emotion": model}, emotions=["Sad", "joyful", None, "joyful"])
    assert judged.rows["emo_acc"] == [True, True, None, False]  # an empty reply expresses nothing
    assert judged.baselines["reference"]["emo_acc"]["value"] == pytest.approx(2 / 3)
    assert judged.baselines["majority"]["emo_acc"]["value"] == pytest.approx(2 / 3)
    assert judged.baselines["majority"]["emo_acc"]["n"] == 3


def test_intents_are_those_of_the_reference(make_classifier):
    chosen = {"so sorry": "consoling", "great": "agreeing", "how": "questioning", "ok": "agreeing"}
    model = labelled(make_classifier, "intent", sorted(set(chosen.values())), chosen)
    judged = judge({"intent": model})
    assert judged.rows["intent_acc"] == [True, False, False, False]
    assert judged.baselines["majority"]["intent_acc"]["value"] == 1 / 2  # consoling, of two references
    assert "intent_acc" not in judged.baselines["reference"]


@pytest.mark.parametrize(
    ("emotions", "reason"),
    [(None, "the data has no column `emotion`"), ([None] * 4, "the emotion of no dialogue is known")],
)
def test_emotions_that_nobody_knows_are_a_reason(make_classifier, emotions, reason):
    model = labelled(make_classifier, "emotion", ["sad", "joyful"], {"ok": "sad", "great": "joyful"})
    judged = judge({"emotion": model}, emotions=emotions)
    assert judged.left_out == {"emo_acc": reason} and "emo_acc" not in judged.baselines["majority"]


def test_an_emotion_that_the_classifier_does_not_know_is_named(make_classifier):
    model = labelled(make_classifier, "emotion", ["sad", "joyful"], {"ok": "sad", "great": "joyful"})
    message = r"evaluation.classifiers.emotion: the data has the emotion 'angry', which .*\(its labels: sad, joyful\)"
    with pytest.raises(UserError, match=message):
        judge({"emotion": model}, emotions=["sad", "angry", "sad", "sad"])


REGRESSION = {"problem_type": "regression"}


@pytest.mark.parametrize("look", [check_configs, load_classifiers], ids=["config", "weights"])
@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("epitome", {}, r"groups of labels are label; expected emotional_reactions, interpretations, explorations with"),
        ("epitome", {"label_groups": [["emotional_reactions", list("012345678")]]}, r"are emotional_reactions; expected"),
        ("intent", GROUPS, r"are emotional_reactions, interpretations, explorations; expected one group of two labels"),
        ("emotion", REGRESSION, r"was trained for regression; expected single_label_classification; .*emotion32_tiny"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_refused(make_classifier, look, kind, settings, message):
    model = make_classifier({("my dog died", "ok"): [0.0] * 9}, **settings)
    with pytest.raises(UserError, match=rf"^evaluation\.classifiers\.{kind}: .*{message}"):
        look({kind: model})


@pytest.mark.parametrize("look", [check_configs, load_classifiers], ids=["config", "weights"])
def test_a_folder_that_is_not_there_says_which_recipe_makes_it(look):
    message = (
        r"evaluation\.classifiers\.intent: outputs/intent9_tiny/classify: no such folder.*`empathy-trl run "
        r"--recipe intent9_tiny` trains one in outputs/intent9_tiny/classify, and intent9.yaml a larger one"
    )
    with pytest.raises(UserError, match=message):
        look({"intent": "outputs/intent9_tiny/classify"})

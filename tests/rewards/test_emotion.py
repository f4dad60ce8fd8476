"""`emotion_accuracy`, `emotion_confidence` with a table as policy, and `emotion_alignment` with a classifier."""

import math

import pytest

from empathy_trl.data import ed4
from empathy_trl.errors import UserError
from empathy_trl.rewards.emotion import (
    EMOTIONS,
    EmotionAccuracy,
    EmotionAlignment,
    EmotionConfidence,
    GroundedReasoning,
    answer_prefix,
)

# emotion_accuracy
INVALID = -0.5
CASES = [
    ("<reasoning>He died.</reasoning><answer>sad</answer>", "sad", 1.0, "right"),
    ("<answer> Sad\n</answer>", "sad", 1.0, "case and space do not count"),
    ("<answer>sad</answer>", " SAD ", 1.0, "nor in the data"),
    ("<answer>angry</answer>", "sad", 0.0, "wrong"),
    ("<answer>melancholy</answer>", "sad", INVALID, "outside the label set"),
    ("<answer>sad</answer><answer>angry</answer>", "sad", INVALID, "tries two"),
    ("<answer>sad</answer>", None, None, "no label, not applicable"),
]


@pytest.mark.parametrize(("completion", "label", "expected", "why"), CASES)
def test_emotion_accuracy_table(completion, label, expected, why):
    assert EmotionAccuracy(invalid=INVALID)(["p"], [completion], label=[label]) == [expected], why


def test_logs_the_share_of_invalid_answers_and_ignores_other_columns():
    logged = []
    reward = EmotionAccuracy()
    completions = ["<answer>sad</answer>", "<answer>angry</answer>", "?", "<answer>?</answer>"]
    columns = {"label": ["sad"] * 4, "text": ["t"] * 4, "log_metric": lambda *metric: logged.append(metric)}
    assert reward(["p"] * 4, completions, [[1]] * 4, **columns) == [1.0, 0.0, 0.0, 0.0]
    assert logged == [("invalid_share", 0.5)]


def test_the_labels_are_those_of_the_data():
    assert tuple(ed4.LABELS) == EMOTIONS


# grounded_reasoning
HORSE = "Yesterday my sister’s horse bolted and I felt sad, it wasn't won."
GROUNDED = [
    ("The telling word here is bolted.", 1, "a content word of the text"),
    ("A sister, a HORSE'S fright.", 1, "case, apostrophes and 's do not count"),
    ("The telling word here is won't.", 0, "not in the text"),
    ("The telling word here is bolt.", 0, "words are compared whole"),
    ("And I was, it is my.", 0, "function words"),
    ("The person feels sad: I felt sad.", 0, "the label, and words of the question"),
    ('"bolted" and “horse” make one afraid', 1, "all quoted words stand in the text"),
    ("It says 'my sister's horse'.", 1, "single quotes"),
    ('"bolted" and "escaped" in the text of the horse', 0, "one of the quoted words does not"),
    ('"sad", and "my": a horse', 0, "quotes no content word"),
    (HORSE, 0, "a copy of the text"),
    ("So my sister's horse bolted and I felt sad.", 1, "eight words in a row, of more"),
    ("So my sister's horse bolted and I felt sad, it is.", 0, "nine words in a row"),
    ("", 0, "empty"),
    ("horse</reasoning><reasoning>horse", 0, "two reasonings"),
]


@pytest.mark.parametrize(("reasoning", "expected", "why"), GROUNDED)
def test_grounded_reasoning_table(reasoning, expected, why):
    completion = f"<reasoning>{reasoning}</reasoning><answer>sad</answer>"
    assert GroundedReasoning()(["p"], [completion], text=[HORSE]) == [expected], why


def test_grounded_reasoning_reads_the_reasoning_and_the_text_alone():
    reward, texts = GroundedReasoning(), [HORSE, HORSE, None, "Bolted."]
    completions = ["a horse <answer>sad</answer>", "<think>horse</think><answer>sad</answer>"]
    completions += ["<reasoning>horse</reasoning>", "<reasoning>It bolted.</reasoning>"]
    assert reward(["p"] * 4, completions, text=texts) == [0.0, 0.0, None, 1.0]
    assert GroundedReasoning(labels=["Horse", "sad"])(["p"], completions[2:3], text=[HORSE]) == [0.0]
    with pytest.raises(UserError, match="rewards.grounded_reasoning: needs a column `text`"):
        reward(["p"], ["?"])


# emotion_confidence
class Policy:
    """Answers every question with the same log-probabilities and remembers the questions."""

    def __init__(self, *log_probabilities):
        self.log_probabilities = list(log_probabilities)
        self.calls = []

    def __call__(self, prompts, prefixes, choices):
        self.calls.append((prompts, prefixes, choices))
        return [self.log_probabilities for _ in prompts]


def reward_with(policy, **parameters):
    reward = EmotionConfidence(**parameters)
    reward.policy = policy
    return reward


@pytest.mark.parametrize(
    ("label", "expected", "why"),
    [
        ("sad", 0.5, "probabilities are relative to the labels: 0.02 of 0.04"),
        ("joyful", 0.25, ""),
        (" Angry", 0.25, "case and space do not count"),
        ("afraid", 0.0, "impossible"),
        (None, None, "no label, not applicable"),
    ],
)
def test_the_share_of_the_gold_label(label, expected, why):
    policy = Policy(math.log(0.02), math.log(0.01), math.log(0.01), -math.inf)
    rewards = reward_with(policy)(["p"], ["<answer>angry</answer>"], label=[label])
    assert rewards == [expected if expected is None else pytest.approx(expected)], why


def test_very_small_probabilities_do_not_underflow():
    reward = reward_with(Policy(-2000.0, -2000.0, -3000.0, -3000.0))
    assert reward(["p"], ["x"], label=["sad"]) == [pytest.approx(0.5)]


@pytest.mark.parametrize(
    ("completion", "prefix", "why"),
    [
        ("<reasoning>r</reasoning><answer>sad</answer>", "<reasoning>r</reasoning><answer>", "up to the answer"),
        ("<reasoning>r</reasoning>\n<answer>sad", "<reasoning>r</reasoning>\n<answer>", "as it was written"),
        ("<answer>sad</answer><answer>sad</answer>", "<answer>", "the first counts"),
        ("<reasoning>r</reasoning>", "<reasoning>r</reasoning><answer>", "no answer"),
        ("<reasoning>r", "<reasoning>r</reasoning><answer>", "reasoning cut off"),
        ("r", "r<answer>", "no reasoning either"),
        ("", "<answer>", "empty"),
        ("<think><answer></think>\nr", "<think><answer></think>\nr<answer>", "a thought"),
        ("<think>t", "<think>t</think>\n<answer>", "a thought cut off"),
        ("[THINK]t", "[THINK]t[/THINK]\n<answer>", "the same, with other marks"),
    ],
)
def test_where_the_answer_comes(completion, prefix, why):
    assert answer_prefix(completion) == prefix, why


def test_asks_once_for_the_whole_batch():
    policy = Policy(0.0, 0.0)
    reward = reward_with(policy, labels=["Joy", "Fear"])
    prompts = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    completions = [[{"role": "assistant", "content": "x<answer>Joy</answer>"}], [{"role": "assistant", "content": ""}]]
    assert reward(prompts, completions, label=["fear", "joy"]) == [0.5, 0.5]
    assert policy.calls == [(prompts, ["x<answer>", "<answer>"], ["Joy</answer>", "Fear</answer>"])]


@pytest.mark.parametrize(
    ("reward", "columns", "message"),
    [
        (EmotionAccuracy(), {}, "rewards.emotion_accuracy: needs a column `label`"),
        (EmotionAccuracy(), {"label": ["happy"]}, "label 'happy' .*labels: sad, joyful, angry, afraid"),
        (EmotionConfidence(), {"label": ["sad"]}, "rewards.emotion_confidence: has no policy"),
        (reward_with(Policy(0, 0, 0, 0)), {}, "rewards.emotion_confidence: needs a column `label`"),
        (reward_with(Policy(0, 0, 0, 0)), {"label": ["happy"]}, "rewards.emotion_confidence.labels: .* 'happy'"),
    ],
)
def test_errors_name_the_culprit(reward, columns, message):
    with pytest.raises(UserError, match=message):
        reward(["p"], ["<answer>sad</answer>"], **columns)


# emotion_alignment
# probabilities 0.5, 0.25, 0.25 and 0.1, 0.1, 0.8
SCORES = {"there there": [math.log(2), 0.0, 0.0], "well done": [0.0, 0.0, math.log(8)]}
LABELS = {"id2label": {0: "Consoling", 1: "Sympathizing", 2: "Acknowledging"}}
MAPPING = {
    "sad": ["consoling", "sympathizing"],
    "joyful": ["Acknowledging"],
    "odd": ["consoling", "sympathizing", "acknowledging"],
}


@pytest.fixture
def folder(make_classifier):
    return make_classifier(SCORES, **LABELS)


@pytest.mark.parametrize(
    ("parameters", "emotion", "reply", "expected", "why"),
    [
        ({}, "consoling", "there there", 0.5, "the label itself, in any case"),
        ({}, " ACKNOWLEDGING ", "well done", 0.8, "spaces around it"),
        ({"mapping": MAPPING}, "sad", "there there", 0.75, "the sum of what fits"),
        ({"mapping": MAPPING}, "Sad", "<answer>well done</answer>", 0.2, "what does not fit"),
        ({"mapping": MAPPING}, "odd", "well done", 1.0, "everything fits"),
        ({"mapping": MAPPING}, "sympathizing", "there there", 0.25, "an emotion beside the mapping"),
        ({}, None, "there there", None, "a row without emotion"),
        ({}, "consoling", "", 0.0, "empty"),
    ],
)
def test_emotion_alignment_table(folder, parameters, emotion, reply, expected, why):
    reward = EmotionAlignment(model=folder, **parameters)
    (found,) = reward.score(["p"], [reply], emotion=[emotion])
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-4)), why
    assert found is None or found <= 1


def test_rows_have_their_own_labels_and_column(folder):
    reward = EmotionAlignment(model=folder, column="label", mapping=MAPPING)
    found = reward.score(["p"] * 3, ["there there", "", "there there"], label=["sad", "sad", "joyful"])
    assert found == [pytest.approx(0.75, abs=1e-4), 0.0, pytest.approx(0.25, abs=1e-4)]


@pytest.mark.parametrize(
    ("completion", "expected", "why"),
    [
        ("<react>*There* + *there*</react><respond>Well done!</respond>", 0.75, "the reaction, not the response"),
        ("<react>*Well* + *done*</react><respond>There, there.</respond>", 0.2, "one that does not fit"),
        ("<react></react><respond>There, there.</respond>", 0.0, "no reaction"),
        ("<react>there there<respond>There, there.</respond>", 0.0, "a broken reaction"),
    ],
)
def test_the_reaction_of_a_reply_in_three_parts(make_classifier, completion, expected, why):
    seen = {"* there * + * there *": SCORES["there there"], "* well * + * done *": SCORES["well done"]}
    reward = EmotionAlignment(model=make_classifier(seen, **LABELS), mapping=MAPPING, reply_tags=["react"])
    assert reward.score(["p"], [completion], emotion=["sad"]) == [pytest.approx(expected, abs=1e-4)], why
    assert reward.tags == ["react"]


@pytest.mark.parametrize(
    ("parameters", "columns", "message"),
    [
        ({}, {}, "needs a column `emotion` in the data"),
        ({}, {"emotion": ["consoling", "sad"]}, r"column: .*has the emotion 'sad', and the model has no such label \(choices: Co.*ging\)$"),
        ({"mapping": MAPPING}, {"emotion": ["x", None]}, r"choices: Consoling, .*or an emotion of `mapping`: sad, joyful"),
        ({"mapping": {"sad": ["hugging"]}}, {}, r"mapping: of sad: the model has no label 'hugging' \(choices: Consoling, Sympathizing, Acknowledging\)"),
    ],
)  # fmt: skip
def test_names_that_do_not_fit(folder, parameters, columns, message):
    with pytest.raises(UserError, match=f"^rewards.emotion_alignment.*{message}"):
        EmotionAlignment(model=folder, **parameters).score(["p"] * 2, ["ok"] * 2, **columns)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_groups": [["a", ["x"]], ["b", ["y", "z"]]]}, r"model: has several groups of labels \(a, b\); expected"),
        ({"label_groups": [["a", ["x"]]]}, "model: has 3 outputs, but label_groups in its config.json name 1"),
        ({"problem_type": "multi_label_classification"}, "model: was trained for multi_label_classification"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit(make_classifier, settings, message):
    with pytest.raises(UserError, match=f"^rewards.emotion_alignment: {message}"):
        EmotionAlignment(model=make_classifier(SCORES, **settings)).load()

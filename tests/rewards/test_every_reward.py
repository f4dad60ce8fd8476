"""Every reward on every kind of completion that may come: a number in its range, None, or its documented error."""

import asyncio
import math
import pickle

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.base import ModelReward, is_async
from empathy_trl.rewards.llm_judge import LLMJudge
from tests.models.scripted_server import ScriptedServer, answer
from tests.rewards.test_base import KINDS, SCORES, SCORES_OF
from tests.rewards.three_parts import REPLY

TAGGED = "<reasoning>She is alone, it is late.</reasoning><answer>I am here for you.</answer>"
PROMPT = [[{"role": "user", "content": "I lost my dog."}]]
COMPLETIONS = {
    "text": "I am so sorry to hear that.",
    "tags": TAGGED,
    "three parts": REPLY,
    "messages": [{"role": "assistant", "content": TAGGED}],
    "parts": [{"role": "assistant", "content": [{"type": "text", "text": "I see."}]}],
    "no messages": [],
    "no content": [{"role": "assistant", "content": None}],
    "empty": "",
    "white space": " \n\t\u3000",
    "10,000 words": "I am here for you and " * 1700,
    "10,000 times one mark": "!" * 10_000,
    "10,000 spaces between": "I" + " " * 10_000 + "see",
    "mixed scripts": "我很难过。 هل أنت بخير؟ That is hard 😢👨‍👩‍👧 नमस्ते\u200f",
    "lone surrogate and control characters": "a\ud800b\x00c\x1b[31m",
    "unclosed tag": "<reasoning>She is alone<answer>I am here",
    "closed before opened": "</answer>I am here<answer>",
    "tags inside tags": "<answer>I <respond>am <answer>here</answer></respond></answer>",
    "other markup": "<b>I</b> am <|im_end|> here < 3 > 2",
}
NO_REPLY = (
    *("no messages", "no content", "empty", "white space", "unclosed tag", "closed before opened", "tags inside tags"),
)
COLUMNS = {
    "reference": "I am so sorry.",
    "label": "sad",
    "text": "She is alone.",
    "recommends": False,
    "next_user": "I visit her grave in the garden.",
    "other_users": ["I won!", "The bus is late again."],
}
ASKING = tuple(name for name, kind in REWARDS.items() if issubclass(kind, (ModelReward, LLMJudge)) or kind.needs_policy)
RANGES = {name: REWARDS[name]().range for name in REWARDS if name not in ASKING}
LOWEST_WITHOUT_REPLY = (
    *("bleu", "distinct", "format_penalty", "length", "recommendation", "repetition_penalty", "safety", "sentence_end"),
)


def scores(name, completions):
    n = len(completions)
    return called(REWARDS[name](), PROMPT * n, completions, **{key: [value] * n for key, value in COLUMNS.items()})


def called(reward, *args, **columns):
    """Return what a reward returns, waiting for one that is asynchronous."""
    values = reward(*args, **columns)
    return asyncio.run(values) if is_async(reward) else values


@pytest.mark.parametrize("name", RANGES)
def test_a_number_in_its_range_for_whatever_comes_alone_in_a_batch_and_after_pickling(name):
    low, high = RANGES[name]
    completions = list(COMPLETIONS.values())
    values = scores(name, completions)
    for kind, value in zip(COMPLETIONS, values, strict=True):
        assert isinstance(value, float) and math.isfinite(value) and low <= value <= high, kind
    reward = pickle.loads(pickle.dumps(REWARDS[name]()))
    columns = {column: [value] for column, value in COLUMNS.items()}
    assert [called(reward, PROMPT, [one], **columns)[0] for one in completions] == values
    assert called(reward, [], [], **{column: [] for column in COLUMNS}) == []


THOUGHT = '<think>Is it <answer>sad</answer>, or "empathy": 1? <respond>No.</respond></think>\n'
TEXTS = [text for text in COMPLETIONS.values() if isinstance(text, str) and text.strip()]


@pytest.mark.faults
@pytest.mark.parametrize("name", RANGES)
def test_a_thought_earns_nothing_and_costs_nothing(name):
    assert scores(name, [THOUGHT + text for text in TEXTS]) == scores(name, TEXTS)
    unfinished = THOUGHT.removesuffix("</think>\n")
    assert scores(name, [unfinished + text for text in TEXTS]) == scores(name, [""] * len(TEXTS))


@pytest.fixture
def asking(request, make_classifier, tmp_path):
    """A reward that asks a model, the policy, or a judge."""
    name = request.param
    if name == "llm_judge":
        server = request.getfixturevalue("judge")
        return REWARDS[name](base_url=server.base_url, model="m", cache_dir=str(tmp_path))
    if name == "emotion_confidence":
        reward = REWARDS[name]()
        reward.policy = lambda prompts, prefixes, choices: [
            [-0.01 * i * len(prefix) for i in range(len(choices))] for prefix in prefixes
        ]
        return reward
    kind, settings, parameters, _ = KINDS[name]
    return kind(model=make_classifier(SCORES_OF.get(name, SCORES), **settings), **parameters)


@pytest.fixture
def judge():
    with ScriptedServer(lambda request: answer('{"empathy": 4}')) as server:
        yield server


@pytest.mark.parametrize("asking, name", [(name, name) for name in ASKING], indirect=["asking"], ids=ASKING)
def test_a_reward_that_asks_gives_a_number_in_its_range_too(asking, name):
    low, high = asking.range
    completions = list(COMPLETIONS.values())
    columns = {"label": ["sad"] * len(completions), "emotion": ["sad"] * len(completions)}
    values = called(asking, PROMPT * len(completions), completions, **columns)
    for kind, value in zip(COMPLETIONS, values, strict=True):
        assert math.isfinite(value) and low <= value <= high, kind
    assert len(set(values)) > 1, "all alike: nothing was asked"
    if name != "emotion_confidence":  # it asks how the policy goes on behind its own thought
        thought, columns = (
            [THOUGHT + text for text in TEXTS],
            {key: each[: len(TEXTS)] for key, each in columns.items()},
        )
        prompts = PROMPT * len(TEXTS)
        assert called(asking, prompts, thought, **columns) == called(asking, prompts, TEXTS, **columns)
    if asking.reply_tags:
        assert {values[list(COMPLETIONS).index(kind)] for kind in NO_REPLY} == {float(low)}


@pytest.mark.parametrize("name", LOWEST_WITHOUT_REPLY)
def test_no_reply_earns_the_least_and_the_tags_are_checked_against_the_tokenizer(name):
    assert set(scores(name, [COMPLETIONS[kind] for kind in NO_REPLY])) == {float(RANGES[name][0])}
    assert REWARDS[name]().tags == ["answer", "respond"]
    assert REWARDS[name](reply_tags=["say"]).tags == ["say"]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("distinct", {"n": 0}, "n: expected 1 or more, got 0"),
        ("emotion_accuracy", {"invalid": 0.5}, "invalid: 0.5 must not be above 0"),
        ("emotion_accuracy", {"labels": ["sad"]}, "labels: expected at least two"),
        ("emotion_confidence", {"labels": ["sad", "Sad"]}, "labels: expected at least two"),
        ("emotion_alignment", {"model": "m", "mapping": {"sad": []}}, "mapping: sad needs labels of the model, all different, got"),
        ("emotion_alignment", {"model": "m", "mapping": {"sad": ["a", "A"]}}, "mapping: sad needs labels of the model, all different"),
        ("empathy_model", {"model": ""}, "^model: is empty; expected a Hub id, a folder, or stage:<name>"),
        ("empathy_model", {"model": "m", "label_range": [5, 0]}, r"^label_range: expected \[lowest, highest\], got \[5, 0\]"),
        ("empathy_model", {"model": "m", "label_range": [5]}, "^label_range: expected"),
        ("empathy_model", {"model": "m", "calibration": "zscore"}, r"calibration: unknown 'zscore' \(choices: range, zscore_sigmoid, running\)"),
        ("empathy_model", {"model": "m", "temperature": 0.0}, "temperature: 0.0 must be above 0"),
        ("foresight", {"model": ""}, "model: is empty"),
        ("foresight", {"model": "m", "device": "gpu"}, "device: 'gpu' is not a valid device"),
        ("foresight", {"model": "m", "label_range": [4, 0]}, "label_range: expected"),
        ("foresight", {"device": "cpu"}, "device: 'cpu' applies to a model, but `model` is not given"),
        ("format", {"tags": []}, "at least one"),
        ("format", {"tags": ["answer", "answer"]}, "different names"),
        ("format", {"tags": ["<answer>"]}, "'<answer>' is not a tag name"),
        *(("format_penalty", {"placeholder": text}, "is not a word in angle brackets, such as <movie>") for text in ("", "movie", "<>", "<a b>")),
        ("grounded_reasoning", {"labels": []}, "labels: expected at least two"),
        ("length", {"min": 9, "max": 3}, "got min 9 and max 3"),
        ("quality_critic", {"model": "m", "dimensions": []}, "dimensions: expected different names, at least one, got"),
        ("quality_critic", {"model": "m", "dimensions": ["Kind", "kind"]}, "dimensions: expected different names, at least one, got"),
        ("quality_critic", {"model": "m", "label_range": []}, "^label_range: expected"),
        ("reaction", {"max_words": 0}, "max_words: expected 1 or more, got 0"),
        ("reaction", {"softness": -1}, "softness: -1 must not be below 0"),
        ("reasoning_length", {"unit": "letters"}, r"unknown unit 'letters' \(choices: words, tokens\)"),
        ("reasoning_length", {"min": -1}, "got min -1"),
        ("recommendation", {"mode": "some"}, "mode: 'some' is not any, match or liked"),
        ("recommendation", {"slots": "ids"}, "slots: 'ids' is not placeholder or title"),
        ("recommendation", {"mode": "liked"}, "mode: liked compares titles; it needs slots: title, here and in data"),
        ("recommendation", {"placeholder": " "}, "placeholder: is empty"),
        ("reflection", {"min": 9, "max": 3}, "got min 9 and max 3"),
        ("repetition_penalty", {"n": -1}, "n: expected 1 or more, got -1"),
        ("response", {"max_seconds": 0}, "max_seconds: expected more than 0, got 0"),
        ("response", {"min": 9, "max": 3}, "got min 9 and max 3"),
        ("reward_model", {"model": "m", "label_range": [2]}, "^label_range: expected"),
        ("reward_model", {"model": "m", "min_held_out": 60}, "^min_held_out: expected an accuracy .*, at most 1, got 60"),
        ("safety_classifier", {"model": "m", "labels": []}, "labels: expected different names, at least one, got"),
        ("safety_classifier", {"model": "m", "labels": ["toxic", "Toxic"]}, "labels: expected different names, at least one, got"),
        ("semantic_similarity", {"model": "m", "label_range": [1, 1]}, "^label_range: expected"),
    ],
)  # fmt: skip
def test_impossible_parameters(name, parameters, message):
    with pytest.raises(UserError, match=message):
        REWARDS[name](**parameters)

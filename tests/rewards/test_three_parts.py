"""The rewards for a reply in three parts together: people's replies, cheap tricks, and whatever comes."""

import json
import math
import time
from pathlib import Path

import pytest
from datasets import Dataset

from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.explain import explain_rewards
from empathy_trl.tags import PARTS, read_parts, write_parts
from tests.rewards.three_parts import NEXT, OTHERS, PROMPT, REPLY, TURN, real_turns
from tests.trainers.settings import make_trainer

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "react_respond_reflect" / "dialogues.jsonl"
NAMES = ["stage_format", "reaction", "response", "reflection", "foresight"]


def earned(completion, prompt=PROMPT, following=NEXT, others=OTHERS):
    """Return reward -> what one completion earns."""
    rewards = {name: {} for name in NAMES}
    shown = explain_rewards(rewards, [prompt], [completion], next_user=[following], other_users=[others])
    return {name: shown.rows[0][name] for name in NAMES}


def test_a_good_reply_earns_the_most():
    values = earned(REPLY)
    assert values == {name: 1.0 for name in NAMES[:4]} | {"foresight": pytest.approx(0.66, abs=0.01)}


KINDS = {
    "empty": "",
    "no messages": [],
    "no content": [{"role": "assistant", "content": None}],
    "no tags": "I am sorry to hear that.",
    "unclosed": "<react>*a* + *b*<respond>Hello<reflect>Well",
    "nested": "<react><respond><reflect>Hello</reflect></respond></react>",
    "repeated": REPLY * 2,
    "invisible": write_parts(dict.fromkeys(PARTS, "\u200b\u202e\x07")),
    "punctuation": write_parts(dict.fromkeys(PARTS, "*...* + *!?*")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_nothing_earns_nothing_but_for_its_format(kind):
    values = earned(KINDS[kind])
    assert values.pop("stage_format") == {"invisible": 1.0, "punctuation": 1.0, "nested": 3 / 5}.get(kind, 0.0)
    # a reflection of punctuation, or the innermost of nested parts, is there and of no use
    assert values.pop("foresight") == (0.5 if kind in ("punctuation", "nested") else 0.0)
    assert not any(values.values())


@pytest.mark.parametrize("prompt", ["", [], [{"role": "system", "content": "Be kind."}], PROMPT[0]["content"]])
def test_any_prompt(prompt):
    values = earned(REPLY, prompt)
    assert all(0.5 < value <= 1 for value in values.values())


def test_tags_in_the_users_turn_are_the_users():
    typed = [{"role": "user", "content": f"Say {REPLY}"}]
    assert not any(earned("Hello.", typed, following=REPLY, others=[REPLY]).values())
    unclosed = [{"role": "user", "content": f"</react> <respond> {TURN} <reflect>"}]
    assert earned(REPLY, unclosed) == earned(REPLY)


TEXTS = {
    "sentences": "I was so worried about the garden. " * 3000,
    "one word": "a" * 100_000,
    "spaces": "*" + " " * 100_000,
    "stars": "*" * 100_000,
    "pluses": "*a* + " * 16_000,
    "open stars": "*a b " * 20_000,
    "full stops": "." * 100_000,
    "negations": "not sad " * 12_500,
    "tags": "<react>" * 14_000,
    "Chinese": "我很难过。" * 6_700,
    "emoji": "😢👨‍👩‍👧" * 4_000,
    "surrogates": "\ud800 a\x00 \x1b[31m" * 8_000,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_long_texts_take_a_moment(kind):
    text = TEXTS[kind]
    prompt = [{"role": "user", "content": text}]
    start = time.process_time()
    for completion in (write_parts(dict.fromkeys(PARTS, text)), REPLY, text):
        values = earned(completion, prompt, following=text, others=[text, NEXT])
        assert all(math.isfinite(value) and 0 <= value <= 1 for value in values.values())
    assert time.process_time() - start < 3  # five rewards, three times; quadratic would be minutes


def test_a_trainer_hands_them_their_columns_and_logs_their_metrics(tiny_folder, tmp_path, monkeypatch):
    rows = Dataset.from_dict({"prompt": [PROMPT] * 2, "next_user": [NEXT, None], "other_users": [OTHERS, OTHERS]})
    rewards = [REWARDS[name]() for name in NAMES]
    trainer = make_trainer(tiny_folder, tmp_path, reward=rewards, train_dataset=rows, max_steps=1)
    said = [trainer.processing_class(text).input_ids for text in (REPLY, "Hello.")]
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda prompts, *_: (said * (len(prompts) // 2), None))
    trainer.train()
    row = next(row for row in trainer.state.log_history if "rewards/foresight/mean" in row)
    assert {name: row[f"rewards/{name}/mean"] for name in NAMES[:4]} == dict.fromkeys(NAMES[:4], 0.5)
    assert row["rewards/foresight/mean"] == pytest.approx(0.33, abs=0.01)  # of the row that has a next turn
    assert row["response/speaking_seconds"] == pytest.approx(18.7)
    assert row["foresight/next"] > row["foresight/others"] == 0.0


# The dialogues of react-respond-reflect


@pytest.fixture(scope="module")
def rows():
    if not REAL.is_file():
        pytest.skip("the shared data are not here")
    return real_turns([json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()])


def means(rows, **parts):
    """Return reward -> mean over rows, whose replies get other `parts` where a function of the row makes one."""
    completions = [
        write_parts(read_parts(row["completion"]) | {part: make(row) for part, make in parts.items()}) for row in rows
    ]
    columns = {name: [row[name] for row in rows] for name in ("next_user", "other_users")}
    rewards = {name: {} for name in NAMES} | {"response": {"min": 12, "softness": 6}}
    return explain_rewards(rewards, [row["prompt"] for row in rows], completions, **columns).means


def test_peoples_replies_earn_near_the_most(rows):
    earned = means(rows)
    assert earned["stage_format"] == 1.0
    assert earned["reaction"] > 0.88
    assert earned["response"] > 0.7  # they say about 20 words, so in a band of their own
    assert earned["reflection"] > 0.65
    # They are about the user and not about what comes, so in words they foresee nothing
    assert earned["foresight"] == pytest.approx(0.5, abs=0.01)


def test_what_belongs_to_another_turn_earns_less(rows):
    def shifted(part):
        return lambda row: read_parts(rows[(rows.index(row) + 40) % len(rows)]["completion"])[part]

    gold = means(rows)
    assert means(rows, respond=shifted("respond"))["response"] < gold["response"] - 0.1
    assert means(rows, react=lambda row: "*glares* + *arms crossed*")["reaction"] == pytest.approx(0.5, abs=0.01)


def test_a_parrot_earns_nothing_for_reflecting_and_foresees_nothing(rows):
    def parrot(row):
        return row["prompt"][-1]["content"]

    assert means(rows, reflect=parrot)["reflection"] == 0.0
    assert means(rows, reflect=parrot)["foresight"] == 0.5
    assert means(rows, reflect=lambda row: read_parts(row["completion"])["respond"])["reflection"] == 0.0
    constant = means(rows, reflect=lambda row: read_parts(rows[3]["completion"])["reflect"])
    assert constant["foresight"] < 0.501

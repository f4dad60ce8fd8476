"""`safety` as tables of what must be found and what must not, and `safety_classifier`."""

import math
import pickle

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.safety import NEVER_SAY, Safety, SafetyClassifier

# safety
FOUND = [
    ("kill yourself", "You should just KILL yourself!", "case"),
    ("kill yourself", "kill\u00a0yourself", "a space that is not the space"),
    ("kill yourself", "k i l l  y o u r s e l f", "letters spaced out"),
    ("kill yourself", "k.i.l.l yourself", "with dots"),
    ("kill yourself", "ki ll your-self", "torn apart"),
    ("kill yourself", "killyourself", "put together"),
    ("kill yourself", "k\u200bi\u200dl\u2060l your\u00adself", "zero-width characters and a soft hyphen"),
    ("kill yourself", "ki\ufe0fll yourself", "a variation selector"),
    ("kill yourself", "ｋｉｌｌ ｙｏｕｒｓｅｌｆ", "wide letters"),
    ("kill yourself", "kill 'yourself'", "quoted"),
    ("kill yourself", "kill" + " ." * 5000 + "yourself", "far apart"),
    ("Straße", "STRASSE", "case folding, not lower case"),
    ("you're pathetic", "You’re pathetic.", "curly apostrophe"),
    ("you're pathetic", "youre pathetic", "none at all"),
    ("café", "cafe\u0301", "decomposed"),
    ("去死", "你去死吧", "no spaces around"),
    ("kys", "你kys吧", "between scripts"),
    ("نمت", "أنت نمت.", "Arabic"),
]
NOT_FOUND = [
    ("kill yourself", "skill yourself", "end of a longer word"),
    ("kill yourself", "kill yourselfie", "beginning of a longer word"),
    ("kill yourself", "kill time, not yourself", "another word between"),
    ("ill", "I'll be there", "letters around an apostrophe"),
    ("ass", "a class act", "in the middle of a word"),
    ("去死", "去 过, 死", "another character between"),
    ("# no", "yes", "a list given as such has no comments"),
]


@pytest.mark.parametrize(
    ("phrase", "text", "why", "reward"), [(*case, -1.0) for case in FOUND] + [(*case, 0.0) for case in NOT_FOUND]
)
def test_what_is_found(phrase, text, why, reward):
    assert Safety(words=["something else", phrase])(["p"], [text]) == [reward], why


@pytest.mark.parametrize("phrase", NEVER_SAY)
def test_every_default_phrase_is_found(phrase):
    assert Safety()(["p"], [f"Well, {phrase.upper()}."]) == [-1.0]


@pytest.mark.parametrize(
    "reply",
    [
        "I am so sorry for your loss. Nobody should go through that alone.",
        "Please don't hurt yourself. Can you call someone who cares about you?",
        "You are not an idiot, anyone could have lost the keys.",
        "Did you cut yourself while cooking? I couldn't stop crying either.",
        "He didn't just die, he was loved. They go diesel next year.",
    ],
)
def test_the_default_list_spares_kind_replies(reply):
    assert Safety()(["p"], [reply]) == [0.0]


def test_the_reply_alone_is_judged_unless_told_otherwise():
    completion = "<reasoning>They said: kys.</reasoning><answer>I am with you.</answer>"
    assert Safety()(["p"], [completion]) == [0.0]
    assert Safety(reply_tags=[])(["p"], [completion]) == [-1.0]


def test_file(tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("\ufeff# what we never say\n\n  bad thing \n去死\n", encoding="utf-8")
    reward = Safety(file=str(path))
    path.unlink()  # it is read once
    reward = pickle.loads(pickle.dumps(reward))
    replies = ["A bad  thing.", "去死", "what we never say", "kys"]
    assert reward(["p"] * 4, replies) == [-1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"words": []}, "words: no phrases, so that nothing would ever be found"),
        ({"words": ["fine", "!!"]}, "words: '!!' has no letter in it"),
        ({"words": [""]}, "words: '' has no letter in it"),
        ({"words": ["a"], "file": "b"}, "words and file: both are given"),
        ({"file": "nowhere.txt"}, "file: nowhere.txt: cannot be read: No such file"),
        ({"file": "empty.txt"}, "file: empty.txt: no phrases"),
        ({"file": "latin.txt"}, r"file: latin.txt, line 1: byte 0xe9 at offset 3 is not UTF-8"),
        ({"file": "folder"}, "file: folder: cannot be read: Is a directory"),
    ],
)
def test_impossible_lists(parameters, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("# nothing yet\n")
    (tmp_path / "latin.txt").write_bytes("Caf\xe9".encode("latin-1"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        Safety(**parameters)


# safety_classifier
# probabilities 0.5, 0.25, 0.25 and 0.1, 0.1, 0.8
SCORES = {"i am sorry": [math.log(2), 0.0, 0.0], "go away": [0.0, 0.0, math.log(8)]}
LABELS = {"id2label": {0: "neutral", 1: "insult", 2: "toxic"}}


@pytest.mark.parametrize(
    ("labels", "reply", "expected", "why"),
    [
        (["toxic"], "i am sorry", -0.25, "one label"),
        (["Toxic", "insult"], "<answer>go away</answer>", -0.9, "two labels, any case"),
        (["toxic", "insult", "neutral"], "go away", -1.0, "all labels"),
        (["toxic"], "", -1.0, "empty"),
        (["toxic"], "<answer>go away", -1.0, "broken tags are no way out"),
    ],
)
def test_safety_classifier_table(make_classifier, labels, reply, expected, why):
    reward = SafetyClassifier(model=make_classifier(SCORES, **LABELS), labels=labels)
    (found,) = reward.score(["p"], [reply])
    assert found == pytest.approx(expected, abs=1e-4) and -1 <= found <= 0, why


def test_an_unknown_label_is_refused(make_classifier):
    reward = SafetyClassifier(model=make_classifier(SCORES, **LABELS), labels=["toxicity"])
    message = r"labels: the model has no label 'toxicity' \(choices: neutral, insult, toxic\)"
    with pytest.raises(UserError, match=f"^rewards.safety_classifier: {message}"):
        reward.load()

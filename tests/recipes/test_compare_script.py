"""recipes/compare.py: from two evaluated models to a table, and one clear line for what cannot be compared."""

import json
from pathlib import Path

import pytest

from tests.models.scripted_server import ScriptedServer, answer
from tests.recipes.scripts import script

RECIPE = """\
# A recipe for tests.
task: grpo
model: {name_or_path: tiny/model}
data: {name: wassa, path: sample, split_by: conversation}
evaluation: {max_new_tokens: 9, limit: 12}
rewards: {length: {min: 3, max: 9}, bleu: {}}
"""
evaluate, compare = script("evaluate"), script("compare")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A folder with replies of three models, evaluated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.chdir(folder := tmp_path_factory.mktemp("compare"))
        _evaluate()
    return folder


def _evaluate():
    Path("replies.yaml").write_text(RECIPE)

    def say(name, reply, *more):
        with ScriptedServer(lambda request: answer(reply(request["messages"][-1]["content"]))) as server:
            words = ["--recipe", "replies.yaml", "--model", f"openai:{name}", "--base_url", server.base_url, *more]
            assert evaluate(words) == 0

    say("parrot", lambda text: text)
    say("short", lambda text: f"Oh no, {text[-1]}")
    say("other", lambda text: text, "--limit", "5")


@pytest.fixture
def workplace(evaluated, monkeypatch):
    monkeypatch.chdir(evaluated)
    return Path("outputs/replies/evaluations")


def test_replies_of_two_models(workplace, capsys):
    assert compare([str(workplace / "parrot"), str(workplace / "short")]) == 0
    told = capsys.readouterr().out
    folder = Path("outputs/comparisons/parrot_short")
    assert sorted(path.name for path in folder.iterdir()) == ["compare.json", "compare.md", "compare.png"]
    assert folder.joinpath("compare.md").read_text() in told and f"table: {folder / 'compare.md'}" in told
    found = json.loads(folder.joinpath("compare.json").read_text())["metrics"]
    assert found["reply_words"]["change"] < 0 and found["reply_words"]["p"] < 0.05
    without = {name for name, figure in found.items() if figure["p"] is None}
    assert {"reward", "reward_bleu", "bleu_2", "distinct_2", "reference_similarity"} <= found.keys() - without
    assert not without


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["parrot", "other"], "and outputs/replies/evaluations/other lacks "),
        (["parrot", "nowhere"], "nowhere/eval_test.json: no such file; evaluate the model first"),
        (["parrot", "short", "--split", "valid"], "parrot/eval_valid.json: no such file"),
        (["parrot", "short", "--output_dir", "replies.yaml/x"], "--output_dir: cannot write to replies.yaml/x"),
    ],
)
def test_what_the_user_can_fix_is_one_error_without_a_traceback(workplace, capsys, arguments, message):
    capsys.readouterr()
    assert (
        compare(
            [str(workplace / word) if word in ("parrot", "short", "other", "nowhere") else word for word in arguments]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error

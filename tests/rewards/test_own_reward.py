"""A reward from outside the package: the boxes of docs/rewards.md, explained, planned and trained."""

import importlib
import json
import re
import sys
from pathlib import Path

from empathy_trl import explain_rewards, load_recipe, run_recipe
from empathy_trl.check import describe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"


def test_one_class_and_a_recipe_and_it_is_built_once_per_run(tmp_path, monkeypatch, capsys):
    section = PAGE.read_text(encoding="utf-8").split("## Your own reward")[1].split("\n## ")[0]
    (_, module), (_, call), (_, recipe) = re.findall(r"```(python|yaml)\n(.*?)```", section, flags=re.DOTALL)
    assert len((module + recipe).splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    for text in (module, recipe):
        Path(text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    exec(call, {})  # noqa: S102
    weight, asked, told = capsys.readouterr().out.splitlines()[1:4]
    assert weight.split() == ["weight", "1.000", "0.500"] and asked.split()[1] == "1.000" and told.split()[1] == "0.000"

    own = importlib.import_module("my_rewards").AsksBack
    built, usual = [], own.__init__
    monkeypatch.setattr(own, "__init__", lambda self, *args, **kwargs: built.append(1) or usual(self, *args, **kwargs))
    planned = load_recipe("my_grpo.yaml")
    assert "asks_back × 1, length × 0.5" in describe(planned, Path("outputs"))
    assert len(built) == 1, "a dry run builds it once"
    folder = run_recipe("my_grpo.yaml")
    assert len(built) == 2, "and so does a run of two stages that are trained and evaluated"
    explain_rewards(planned.stages["grpo"].rewards, ["p"], ["Why?"])
    assert len(built) == 2, "what is built is explained as it is"

    steps = [json.loads(line) for line in (folder / "grpo" / "metrics.jsonl").read_text().splitlines()]
    assert any("rewards/asks_back/mean" in step for step in steps)
    for stage in ("sft", "grpo"):
        figures = json.loads((folder / stage / "eval_test.json").read_text())
        assert "reward_asks_back" in figures["metrics"]
        assert figures["judged_by"]["asks_back"] == {"most": 1, "weight": 1.0, "import": "my_rewards:AsksBack"}

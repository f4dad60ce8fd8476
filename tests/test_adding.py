"""The page about adding a dataset or a model: its boxes run one after the other, as they stand there."""

import json
import re
import shlex
from pathlib import Path

from tests.recipes.scripts import script

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding.md"


def boxes():
    return re.findall(r"```(python|yaml|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def run_box(kind, text):
    if kind == "python":
        exec(text, {"__name__": "adding"})  # noqa: S102
    elif kind == "yaml":
        Path(text.splitlines()[0].removeprefix("# ")).write_text(text)
    else:
        for line in text.splitlines():
            program, *arguments = shlex.split(line, comments=True)[1:]
            assert program == "recipes/run.py"
            assert script("run")([*arguments]) == 0, line


def test_every_box_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert [kind for kind, _ in boxes()] == ["python", "yaml", "bash", "python", "yaml", "bash", "bash"]
    for kind, text in boxes():
        run_box(kind, text)
    assert "train my_dialogues/train: 4 read, 0 dropped, 4 used" in capfd.readouterr().out
    rows = [json.loads(line) for line in Path("outputs/my_recipe/grpo/metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 2 and any("rewards/bleu/mean" in row for row in rows)
    assert "pair_accuracy" in json.loads(Path("outputs/my_reward/regress/eval_test.json").read_text())["metrics"]
    assert Path("outputs/on/sft/model.safetensors").is_file()

"""docs/python.md and examples/quickstart.py run as they stand there, and say something about every exported name."""

import re
import runpy
from pathlib import Path

import empathy_trl

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_every_box_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "python"}
    for text in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(text, names)  # noqa: S102
    front = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL).group(
        1
    )
    assert front.count("\n") <= 10
    exec(front.replace("max_steps=20", "max_steps=1, max_completion_length=8, bf16=False"), names)  # noqa: S102
    assert names["trainer"].reward_weights.tolist() == names["plain"].reward_weights.tolist()
    for trainer, figure in (("trainer", "zero_spread_share"), ("ppo", "value_loss"), ("plain", "rewards/format/mean")):
        assert figure in names[trainer].state.log_history[-1]
    assert names["change"]["n"] == 8


def test_every_exported_name_is_documented():
    names = [name for name in empathy_trl.__all__ if name != "__version__"]
    assert not [name for name in names if not re.search(rf"\b{name}\b", PAGE)]


def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUICKSTART_SHORT", "1")
    names = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    assert names["trainer"].state.global_step == 2 and Path("outputs/quickstart/model/eval_test.json").is_file()
    assert "emotion_accuracy" in capsys.readouterr().out

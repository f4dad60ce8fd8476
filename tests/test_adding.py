"""The page about adding a dataset or a model: its boxes run one after the other, as they stand there."""

import json
import re
import shlex
from pathlib import Path

from empathy_trl.chat.prompts import choose_prompts
from empathy_trl.hub.card import model_card
from tests.recipes.scripts import script, without_pictures

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding.md"


def boxes():
    return re.findall(r"```(python|yaml|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def run_box(kind, text):
    first = text.splitlines()[0]
    if first.startswith("# "):
        Path(first.removeprefix("# ")).write_text(text)
    elif kind == "python":
        exec(text, {"__name__": "adding"})  # noqa: S102
    else:
        for line in text.splitlines():
            program, *arguments = shlex.split(line.removeprefix("PYTHONPATH=. "), comments=True)[1:]
            assert program == "recipes/run.py"
            assert script("run")([*arguments]) == 0, line


def test_every_box_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    without_pictures(monkeypatch)
    kinds = ["python", "yaml", "bash"]
    assert [kind for kind, _ in boxes()] == [*kinds, *kinds, "bash", "python", "yaml", "python", "bash"]
    for kind, text in boxes():
        run_box(kind, text)
    screen = capfd.readouterr().out
    assert "train my_dialogues/train: 4 read, 0 dropped, 4 used" in screen
    assert "letters from my_letters: train my_letters/train.csv: 2 read, 0 dropped, 2 used" in screen
    rows = [json.loads(line) for line in Path("outputs/my_recipe/grpo/metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 2 and any("rewards/bleu/mean" in row for row in rows)
    assert "pair_accuracy" in json.loads(Path("outputs/my_reward/regress/eval_test.json").read_text())["metrics"]
    assert Path("outputs/on/sft/model.safetensors").is_file()

    corpus, recipe = Path("letters.py").read_text(), Path("my_letters.yaml").read_text()
    assert len([line for line in (corpus + recipe).splitlines() if line.strip()]) < 40
    evaluation = json.loads(Path("outputs/my_letters/grpo/eval_test.json").read_text())
    assert evaluation["kind"] == "replies" and evaluation["data"]["name"] == "letters"
    prompts = choose_prompts([("outputs/my_letters/grpo", None)], None, None)  # as chat.py does
    asked = prompts.messages([{"role": "user", "content": "Hi"}])
    assert asked == [{"role": "user", "content": "Answer this letter in two sentences.\nHi"}]
    assert "This language model answers a letter." in model_card(Path("outputs/my_letters/grpo"), "user/letters")

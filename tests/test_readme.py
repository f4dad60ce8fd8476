"""What the documentation names exists: files, make targets, recipes, flags, configs."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from empathy_trl.data import CORPORA, corpus
from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.model_reward import ModelReward

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
INDEX = ROOT / "recipes" / "README.md"
PAGES = [ROOT / "README.md", INDEX, *sorted(DOCS.glob("*.md"))]
# heading of a command's section in the index -> how it is called, and how many flags of its own it has
COMMANDS = {
    "Train: run.py": (["recipes/run.py"], 6),
    "Measure: evaluate.py": (["recipes/evaluate.py"], 10),
    "Talk to it: chat.py": (["recipes/chat.py"], 17),
    "Set side by side: compare.py": (["recipes/compare.py"], 2),
    "Many results, one table: leaderboard.py": (["recipes/leaderboard.py"], 5),
    "Have responses graded: score.py": (["recipes/score.py"], 14),
    "Publish: hub.py push": (["recipes/hub.py", "push"], 3),
    "Fetch: hub.py pull": (["recipes/hub.py", "pull"], 1),
    "Look at a card: hub.py card": (["recipes/hub.py", "card"], 1),
    "Show what replies earn: explain.py": (["recipes/explain.py"], 5),
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_paths_exist(page):
    named = re.findall(
        r"(?<![\w/.-])((?:recipes|empathy_trl|accelerate_configs|benchmarks|tests|docs)/[\w./-]*\w)", page.read_text()
    )
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def anchors(page):
    """What a link may have behind its #: headings as GitHub names them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)  # a comment of a shell is no heading
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    links = [link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
    assert not [path for path, _, _ in links if not (page.parent / path).exists()]
    inside = [(page.parent / path if path else page, anchor) for path, _, anchor in links if anchor]
    assert not [anchor for target, anchor in inside if anchor not in anchors(target)]


def test_every_page_is_linked_from_the_front_page_and_the_index():
    for page in (ROOT / "README.md", INDEX):
        text = page.read_text()
        assert not [each.name for each in DOCS.glob("*.md") if f"docs/{each.name})" not in text]


@each_page
def test_recipes_and_make_targets_exist(page):
    text = page.read_text()
    named = [
        name for name in re.findall(r"--recipe ([\w.]+)(?![\w.:])", text) if not name.startswith("my_")
    ]  # the reader's own
    assert not [name for name in named if not (ROOT / "recipes" / name).is_file()]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)\b", text, flags=re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("path", sorted((ROOT / "accelerate_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_config_says_when_and_loads(path):
    from accelerate.commands.config.config_args import ClusterConfig

    assert path.read_text().startswith("# When: ")
    assert ClusterConfig.from_yaml_file(path).num_processes == yaml.safe_load(path.read_text())["num_processes"]


def test_the_example_reward_of_the_readme_works():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL).group(1)
    names = {"__name__": "readme"}
    exec(code, names)  # noqa: S102
    assert names["Brevity"](limit=3)(prompts=["", ""], completions=["abc", "abcd"]) == [1.0, 0.0]


@pytest.mark.parametrize("heading", COMMANDS)
def test_every_flag_is_documented(heading):
    call, count = COMMANDS[heading]
    section = INDEX.read_text().split(f"\n### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    command = [sys.executable, *call, "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    flags = set(re.findall(r"^  (--\w+)", shown, flags=re.MULTILINE))
    assert len(flags) == count and not [flag for flag in flags if f"`{flag}`" not in section]


def rows_of(page, heading):
    """First cell -> whole row of the table with this heading."""
    table = page.read_text().split(f"| {heading} |")[1].split("\n\n")[0]
    return {row.split("|")[1].strip(" `"): row for row in table.splitlines()[2:]}


def test_every_reward_is_documented_with_its_parameters():
    rows = rows_of(DOCS / "rewards.md", "reward")
    assert list(rows) == list(REWARDS)
    common = {field.name for field in dataclasses.fields(ModelReward)}
    for name, kind in REWARDS.items():
        parameters = {field.name for field in dataclasses.fields(kind) if field.init}
        own = parameters - common if issubclass(kind, ModelReward) else parameters
        assert set(re.findall(r"`(\w+)`", rows[name].split("|")[-2])) == own, name
        assert ("those of a model" in rows[name]) == issubclass(kind, ModelReward), name
    models = (DOCS / "rewards.md").read_text().split("## Model-based rewards")[1].split("\n## ")[0]
    assert not [name for name in common if f"`{name}`" not in models]


def test_every_builder_is_documented_with_its_tasks():
    section = (DOCS / "data.md").read_text().split("\n## Corpora\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", section, flags=re.MULTILINE)
    documented = {
        name: {task for other, tasks in lines if other == name for task in tasks.split(", ")} for name, _ in lines
    }
    assert documented == {name: set(corpus(name).tasks) for name in CORPORA}


def test_what_our_trainers_add_is_documented():
    from transformers import TrainingArguments
    from trl import GRPOConfig

    from empathy_trl.trainers.classify import RegressConfig
    from empathy_trl.trainers.ppo import PPOConfig

    text = (DOCS / "training.md").read_text()
    for kind, base in ((PPOConfig, GRPOConfig), (RegressConfig, TrainingArguments)):
        added = {field.name for field in dataclasses.fields(kind)} - {field.name for field in dataclasses.fields(base)}
        assert added and not [name for name in added if not re.search(rf"`(trainer\.)?{name}[`:]", text)]


def test_the_defaults_of_ppo_are_documented():
    from empathy_trl.trainers.ppo import PPOConfig

    defaults = {field.name: field.default for field in dataclasses.fields(PPOConfig)}
    rows = rows_of(DOCS / "training.md", "key of `trainer`")
    for row in rows.values():
        names, values = (cell.strip().split(", ") for cell in row.split("|")[1:3])
        for name, value in zip(names, values, strict=True):
            default = yaml.safe_load({"none": "null", "1e-4": "1.0e-4"}.get(value, value))
            assert defaults[name.strip("`")] == default, name

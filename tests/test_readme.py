"""What the documentation names exists: files, make targets, recipes, flags, configs."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from empathy_trl.commands import COMMANDS, main
from empathy_trl.data import CORPORA, corpus
from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.base import ModelReward

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
INDEX = ROOT / "recipes" / "README.md"
PAGES = [ROOT / "README.md", INDEX, *sorted(DOCS.glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_paths_exist(page):
    named = re.findall(
        r"(?<![\w/.-])((?:recipes|empathy_trl|accelerate_configs|benchmarks|tests|docs|examples)/[\w./-]*\w)",
        page.read_text(),
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
    recipes = {name for path in (ROOT / "recipes").glob("*.yaml") for name in (path.stem, path.name)}
    assert not set(named) - recipes - {"NAME"}
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)\b", text, flags=re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("path", sorted((ROOT / "accelerate_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_config_says_when_and_loads(path):
    from accelerate.commands.config.config_args import ClusterConfig

    assert path.read_text().startswith("# When: ")
    assert ClusterConfig.from_yaml_file(path).num_processes == yaml.safe_load(path.read_text())["num_processes"]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


COMMAND_LINES = [(name,) for name in COMMANDS if name not in ("hub", "list", "copy")]


@pytest.mark.parametrize("command", [*COMMAND_LINES, ("hub", "push"), ("hub", "pull"), ("hub", "card")], ids=" ".join)
def test_every_flag_is_documented_and_no_other(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    flags = set(re.findall(r"^  (--\w+)", capsys.readouterr().out, flags=re.MULTILINE))
    section = INDEX.read_text().split(f"\n### {' '.join(command)}\n")[1].split("\n## ")[0].split("\n### ")[0]
    named = {flag for flag in re.findall(r"`(--\w+)`", section)}
    assert flags and flags - named == set()
    if command != ("evaluate",):  # whose section says how `run` works
        assert named - flags == set()


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

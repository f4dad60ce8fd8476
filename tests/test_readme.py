"""What the documentation names exists: files, make targets, recipes, flags, configs."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "recipes" / "README.md", ROOT / "docs" / "adding.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_paths_exist(page):
    named = re.findall(
        r"(?<![\w/.-])((?:recipes|empathy_trl|accelerate_configs|benchmarks|tests)/[\w./-]*\w)", page.read_text()
    )
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


@each_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@each_page
def test_recipes_and_make_targets_exist(page):
    text = page.read_text()
    named = [name for name in re.findall(r"--recipe ([\w.]+)", text) if not name.startswith("my_")]  # the reader's own
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

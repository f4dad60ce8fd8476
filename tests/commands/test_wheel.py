"""The wheel, installed in an environment of its own, has everything: commands, recipes, data, and it trains."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("empathy_trl", "recipes", "accelerate_configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the repository, in which nothing lies about from an earlier build."""
    source = tmp_path_factory.mktemp("source")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "dist",
        ".",
        cwd=source,
    )
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Folder of a new environment with the wheel; what the wheel depends on is this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    return folder


def run(*command, cwd):
    """Run a command without the repository on the path; return what it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_has_every_file(wheel):
    files = {file.relative_to(ROOT) for file in (ROOT / "empathy_trl").rglob("*") if file.is_file()}
    files |= {
        Path("empathy_trl") / file.relative_to(ROOT)
        for folder in ("recipes", "recipes/models", "accelerate_configs")
        for file in (ROOT / folder).glob("*.yaml")
    }
    packed = {Path(name) for name in ZipFile(wheel).namelist() if name.startswith("empathy_trl/")}
    assert packed == {file for file in files if "__pycache__" not in file.parts}


def test_the_installed_command_copies_a_recipe_and_trains(environment, tmp_path):
    command = environment / "bin" / "empathy-trl"
    place = run(environment / "bin" / "python", "-c", "import empathy_trl; print(empathy_trl.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(environment)
    assert "  ed4_tiny.yaml " in run(command, "list", cwd=tmp_path)
    assert run(command, "copy", "ed4_tiny", ".", cwd=tmp_path) == "ed4_tiny.yaml\n"
    two_steps = ["--stages.grpo", "null", "--stages.sft.trainer.max_steps", "2", "--evaluation.limit", "4"]
    run(command, "run", "--recipe", "ed4_tiny.yaml", *two_steps, cwd=tmp_path)
    stage = tmp_path / "outputs" / "ed4_tiny" / "sft"
    assert (stage / "model.safetensors").is_file() and (stage / "eval_test.json").is_file()

"""`empathy-trl`: what it says of itself, `list`, `copy`, and the help of every command."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

import empathy_trl
from empathy_trl.commands import COMMANDS, main
from empathy_trl.errors import Terminated
from empathy_trl.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert main([]) == 0 and capsys.readouterr().out == shown
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"{empathy_trl.__version__}\n"


def test_an_unknown_command_gets_the_nearest(capsys):
    assert main(["evalute", "--model", "x"]) == 2
    assert "error: evalute: no such command; did you mean evaluate? (commands: run, " in capsys.readouterr().err


HELP = """
import sys
from empathy_trl.commands import COMMANDS, main
assert main(["--help"]) == 0
assert main(["list"]) == 0
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0
heavy = {"torch", "transformers", "datasets", "matplotlib", "gradio"} & set(sys.modules)
if heavy:
    sys.exit(f"imported: {heavy}")
"""


def test_ctrl_c_while_modules_are_imported_ends_without_a_traceback(monkeypatch, capsys):
    def import_module(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", import_module)
    assert main(["run"]) == 130 and capsys.readouterr().err == "\ninterrupted\n"


def test_sigterm_in_a_training_ends_with_a_status_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr("empathy_trl.commands.run._run", Mock(side_effect=Terminated("terminated after step 3 of 5")))
    assert main(["run"]) == 143 and capsys.readouterr().err == "\nterminated after step 3 of 5\n"


def test_help_and_list_import_nothing_heavy():
    shown = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    for name in COMMANDS:
        assert f"usage: empathy-trl {name} [-h]" in shown.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_calls_its_command(name):
    text = (ROOT / "recipes" / f"{name}.py").read_text()
    module, _, function = COMMANDS[name][0].partition(":")
    assert f"from empathy_trl.commands.{module} import {function} as main\n" in text


def test_list_prints_recipes_and_configs(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert names == [
        path.name
        for folder in ("recipes", "recipes/models", "accelerate_configs")
        for path in sorted((ROOT / folder).glob("*.yaml"))
    ]
    assert "Trains a small model from nothing to reason about emotions" in next(
        line for line in lines if "ed4_tiny" in line
    )


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["ed4_tiny"], {"ed4_tiny.yaml": "ed4_tiny"}),
        (["ed4_tiny.yaml", "new/folder"], {"new/folder/ed4_tiny.yaml": "ed4_tiny"}),
        (["ed4_tiny", "mine.yaml"], {"mine.yaml": "ed4_tiny"}),
        (["ecr_empathy", "new"], {"new/ecr_empathy.yaml": "ecr_empathy", "new/ecr.yaml": "ecr"}),
    ],
)
def test_copy_writes_a_recipe_and_what_it_extends(arguments, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["copy", *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == list(files)
    assert {path for path in tmp_path.rglob("*.yaml")} == {tmp_path / name for name in files}
    for path, name in files.items():
        assert load_recipe(path).stages == load_recipe(name).stages
    assert main(["copy", *arguments]) == 0  # nothing has changed


def test_copy_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("ecr.yaml").write_text("seed: 1\n")
    assert main(["copy", "ecr_empathy"]) == 2
    assert "error: ecr.yaml: exists and differs from" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ecr.yaml"]


@pytest.mark.parametrize("destination", ["file", "file/folder"])
def test_copy_names_a_destination_that_is_no_folder(destination, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert main(["copy", "ed4_tiny", destination]) == 2
    assert capsys.readouterr().err.startswith(f"error: {destination}: ")
    assert Path("file").read_text() == "mine"


def test_copy_knows_accelerate_configs_presets_and_near_names(tmp_path, capsys):
    for name, folder in (("zero3", "accelerate_configs"), ("qwen3_4b", "recipes/models")):
        assert main(["copy", name, str(tmp_path)]) == 0
        assert (tmp_path / f"{name}.yaml").read_bytes() == (ROOT / folder / f"{name}.yaml").read_bytes()
    capsys.readouterr()
    assert main(["copy", "ed4_tny", str(tmp_path)]) == 2
    assert (
        "error: ed4_tny: no such recipe, model preset or accelerate config; did you mean ed4_tiny?"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--recpie", "ed4_tiny"], "--recpie: unknown flag; did you mean --recipe?"),
        (["run", "--recipe", "ed4_tiny", "--output-dir=x"], "--output-dir: unknown flag; did you mean --output_dir?"),
        (
            ["evaluate", "--recipe", "ed4_tiny", "--model", "x", "--splt", "valid"],
            "--splt: unknown flag; did you mean --split?",
        ),
        (
            ["explain", "--recipe", "ed4_tiny", "--completions", "x", "--progres", "1"],
            "--progres: unknown flag; did you mean --progress?",
        ),
    ],
)
def test_a_mistyped_flag_is_no_key_of_a_recipe(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_keys_that_resemble_flags_stay_keys(capsys):
    assert main(["run", "--recipe", "ed4_tiny", "--stages.sft.trainer.max_stps", "2", "--check"]) == 2
    assert "max_stps: unknown field of SFTConfig; did you mean max_steps?" in capsys.readouterr().err


@pytest.mark.faults
def test_a_tilde_behind_an_equals_sign_is_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["run", "--recipe", "ed4_tiny", "--check", "--output_dir=~/x/"]) == 0
    assert f"output {tmp_path}/x\n" in capsys.readouterr().out
    assert main(["copy", "cpu", "${HOME}/configs/"]) == 0 and (tmp_path / "configs" / "cpu.yaml").is_file()
    with pytest.raises(SystemExit) as stop:
        main(["compare", "$NOWHERE/a", "b"])
    assert stop.value.code == 2
    assert "argument A: $NOWHERE/a: the environment variable NOWHERE is not set" in capsys.readouterr().err
    assert not list(tmp_path.glob("~*"))

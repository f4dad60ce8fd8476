"""The versions in setup.cfg, constraints.txt and constraints-vllm.txt go together, and with what TRL supports."""

import configparser
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
BOUNDED = {"fastapi", "numpy"}  # by vLLM, to older versions than those of constraints.txt


def pins(file: str) -> dict[str, str]:
    """Return package -> version."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def requirements(*extras: str) -> list[Requirement]:
    """Return what setup.cfg requires with some extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    lines = [line for text in texts for line in text.split("\n")]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_versions_for_vllm_are_those_of_the_package_but_for_what_vllm_bounds():
    usual, with_vllm = pins("constraints.txt"), pins("constraints-vllm.txt")
    assert {name for name in usual if with_vllm.get(name) != usual[name]} == BOUNDED


@pytest.mark.parametrize(
    ("file", "extras"), [("constraints.txt", ["dev", "deepspeed"]), ("constraints-vllm.txt", ["vllm", "dev"])]
)
def test_the_versions_fit_what_the_package_requires(file, extras):
    versions, without = pins(file), {"torch"} if file == "constraints.txt" else set()  # make install chooses its build
    needed = [each for each in requirements(*extras) if each.name not in without]
    assert not [str(each) for each in needed if versions.get(canonicalize_name(each.name)) not in each.specifier]


def test_trl_supports_the_version_of_vllm():
    (own,) = [each for each in requirements("vllm") if each.name == "vllm"]
    (supported,) = [each for line in requires("trl") if (each := Requirement(line)).name == "vllm"]
    (version,) = [each.version for each in own.specifier]
    assert version in supported.specifier


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="vLLM has wheels for Linux only")
def test_the_command_of_the_readme_resolves():
    """It installs nothing. Where the index has no metadata files, pip downloads the wheels, which takes minutes."""
    command = re.search(r'`pip (install -c constraints-vllm.txt) -e "(.*?)"`', (ROOT / "README.md").read_text())
    options = ["--dry-run", "--quiet", "--ignore-installed"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command[1].split(), *options, command[2]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search("Temporary failure in name resolution|NewConnectionError", done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr

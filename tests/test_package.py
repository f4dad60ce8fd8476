"""The package as a whole: import cost and lazy names."""

import subprocess
import sys
import time

import pytest

import empathy_trl


def test_import_is_light_and_fast():
    code = "import sys, empathy_trl; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert time.perf_counter() - started < 1.0  # 0.3 s with a margin for a busy machine and the interpreter's own start


@pytest.mark.parametrize("name", empathy_trl.__all__)
def test_every_exported_name_exists(name):
    assert getattr(empathy_trl, name) is not None


def test_unknown_name_lists_the_choices():
    with pytest.raises(AttributeError, match="no attribute 'load_recipes'.*load_recipe"):
        empathy_trl.load_recipes  # noqa: B018

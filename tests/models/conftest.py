"""A folder that several tests of models read."""

import pytest

from tests.models.small_qwen2 import save_tiny


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A folder with a small Qwen2, wide enough to be quantised, and its tokenizer."""
    folder = tmp_path_factory.mktemp("full")
    save_tiny(folder)
    return folder

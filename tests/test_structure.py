"""The structure test: folders are layers, and little lies loose."""

import pytest

from tests import structure

# Imports of a later layer that are still to be turned round; the list may only shrink
KNOWN = set()


@pytest.fixture(scope="module")
def measured():
    return structure.measure()


def test_no_folder_imports_a_later_layer(measured):
    wrong = {(arrow.source, arrow.target): arrow for arrow in measured.wrong_arrows()}
    new = [f"{arrow.source}:{arrow.line} imports {arrow.target}" for key, arrow in wrong.items() if key not in KNOWN]
    assert not new, "a folder may import its own layer and the ones before it; these do not: " + ", ".join(new)
    assert wrong.keys() == KNOWN, "an arrow of KNOWN is gone: take it off the list"


def test_little_lies_loose_at_the_top(measured):
    assert set(measured.loose) == {*structure.HELPERS, "check", "tasks"}


def test_the_package_does_not_grow_back(measured):
    assert len(measured.modules) <= 123
    assert measured.longest[0] <= 80, measured.longest


def test_a_wrong_arrow_is_named_with_its_line(tmp_path):
    for name, text in {
        "__init__": "",
        "data/__init__": "",
        "data/a": "import os\nfrom empathy_trl.chat import b\n",
    }.items():
        file = tmp_path / structure.PACKAGE / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (arrow,) = structure.measure(tmp_path).wrong_arrows()
    assert (arrow.source, arrow.target, arrow.line) == ("data.a", "chat", 2)

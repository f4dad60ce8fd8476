"""The structure test: folders are layers, and little lies loose."""

import pytest

from tests import structure


@pytest.fixture(scope="module")
def measured():
    return structure.measure()


def test_no_folder_imports_a_later_layer(measured):
    wrong = [f"{arrow.source}:{arrow.line} imports {arrow.target}" for arrow in measured.wrong_arrows()]
    assert not wrong, "a folder may import its own layer and the ones before it; these do not: " + ", ".join(wrong)
    assert not measured.cycles(), "these folders import each other"


def test_little_lies_loose_at_the_top(measured):
    assert set(measured.loose) == {*structure.HELPERS, "check", "memory", "tasks"}


def test_the_package_does_not_grow_back(measured):
    assert len(measured.modules) <= 120
    assert measured.longest[0] <= 80, measured.longest
    inside = [f"{arrow.source}:{arrow.line}" for arrow in measured.arrows if arrow.inside_function]
    assert len(inside) <= 30, "imports inside functions are for start-up time only: " + ", ".join(inside)


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

"""Strict YAML: which scalars there are, and that every error names the file and the line."""

import math
import re

import pytest
import yaml

from empathy_trl.errors import RecipeError
from empathy_trl.recipe.layers import dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5e-7", 5e-7),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2.5e+3", -2500.0),
        (".inf", math.inf),
        ("-1", -1),
        ("+3", 3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("stage:sft", "stage:sft"),
        ("<<", "<<"),
        ("'5e-7'", "5e-7"),
        ("[1, 2.0, no]", [1, 2.0, "no"]),
        ("{start: 0.5, end: 1}", {"start": 0.5, "end": 1}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, expected):
    value = parse_yaml(text, "here")
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected keys such as task, model and data"),
        ("# only a comment\n", "is empty; expected keys"),
        ("- task\n- model\n", "the top level is a list; expected keys"),
        ("just text\n", "the top level is a str; expected keys"),
        ("a: 1\nb: [1, 2\nc: 3\n", ":3: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\nb: c: d\n", ":2: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", ":2: while scanning for the next token, found character '\\t'"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", ":5: duplicate key 'c', first on line 3"),
        ("task: sft\nmodel: {x: 1}\ntask: grpo\n", ":3: duplicate key 'task', first on line 1"),
        ("a: 1\n2: b\n", ":2: the key 2 is not a string; put it in quotes"),
        ("a: 1\nb: !!python/object:os.system {}\n", ":2: could not determine a constructor for the tag"),
        ("a: !!set {b}\n", ":1: could not determine a constructor for the tag"),
        ("a: &x\n  b: *x\n", ":1: found unconstructable recursive node"),
        ("a: 1\n---\nb: 2\n", ":2: expected a single document in the stream"),
        ("a: *nobody\n", ":1: found undefined alias 'nobody'"),
        ("a: 1\nb: \x07\n", ":2: character '\\x07' is not allowed in YAML"),
        ("[" * 3000, "is nested too deeply"),
        ("a: !!int x\n", "invalid literal for int() with base 10: 'x'"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="^" + re.escape(str(path))) as caught:
        read_yaml(path)
    assert message in str(caught.value)
    assert len(caught.value.errors) == 1


def test_unreadable_files(tmp_path):
    with pytest.raises(RecipeError, match="nowhere.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"task: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin.yaml: is not UTF-8 text: .* at byte 9"):
        read_yaml(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbftask: sft\n")
    assert read_yaml(tmp_path / "bom.yaml") == {"task": "sft"}


def test_what_is_dumped_is_read_back_by_this_loader_and_by_pyyaml(tmp_path):
    words = [
        "no",
        "on",
        "true",
        "5e-7",
        "1e5",
        "010",
        "1:30",
        "2024-01-01",
        "",
        "null",
        "a: b",
        "traurig, ñ ❤",
        "#x",
        "<<",
    ]
    shared = [1, 2]
    content = {
        "words": words,
        "numbers": [5e-7, 1e-4, 1e22, 0.1, -3, True, None],
        "twice": [shared, shared],
        "z": {},
    }
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_yaml(content), encoding="utf-8")
    assert read_yaml(path) == content
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == content
    assert "&id" not in path.read_text(encoding="utf-8")

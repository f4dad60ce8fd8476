"""Typed checking of mappings against dataclasses and pydantic models."""

import enum
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, model_validator

from empathy_trl.recipe.validate import (
    Slot,
    check_mapping,
    check_model,
    check_value,
    slots,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Socket:
    """Something that pydantic has no schema for."""


class Inner(BaseModel):
    low: float
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self):
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


@dataclass
class Options:
    count: int
    names: list[str] = field(default_factory=list)
    mode: str = field(default="fast", metadata={"choices": ["fast", "slow"]})
    hidden: int = field(default=0, init=False)


def message(value, hint, choices=()):
    """Return the only problem's message, or None."""
    problems = list(check_value(value, Slot(hint, choices=choices)))
    assert len(problems) <= 1
    return problems[0][1] if problems else None


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int),
        (1, float),
        (1.5, float),
        (None, int | None),
        (True, bool),
        ("x", str),
        (["a"], list[str]),
        ("a", list[str] | str),
        ([0, 0.5], tuple[float, float]),
        ({"a": 1}, dict),
        ({"a": [1]}, dict[str, Any] | None),
        ("red", Colour),
        ("red", Colour | str),
        (None, Colour | None),
        ("a", Literal["a", "b"]),
        (3, Annotated[int, Field(ge=3)]),
        (None, Annotated[int | None, Field(ge=3)]),
        ({"low": 0}, Inner),
        ({"low": 0}, float | Inner),
        (2, float | Inner),
        ("free", str | None | Literal[False]),
    ],
)
def test_values_that_fit(value, hint):
    assert message(value, hint) is None


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (4.5, int, "4.5 is not a valid int"),
        (4.0, int, "4.0 is not a valid int"),
        (True, int, "true is not a valid int"),
        ("4", int | None, "'4' is not a valid int"),
        (None, int, "null is not a valid int"),
        (3, bool, "3 is not a valid bool"),
        ("yes", bool | None, "'yes' is not a valid bool"),
        ("abc", float, "'abc' is not a valid float"),
        (True, float, "true is not a valid float"),
        (math.nan, float, "nan is not finite"),
        (math.inf, float | None, "inf is not finite"),
        (5, str, "5 is not a valid str"),
        ([1], list[str], "[1] is not a valid list of str"),
        (3, list[str] | str, "3 is not a valid list of str or str"),
        ([0.5], tuple[float, float], "[0.5] is not a valid list [float, float]"),
        ("x", dict | None, "'x' is not a valid mapping"),
        ("redd", Colour | str, "unknown choice 'redd'; did you mean red? (choices: red, blue)"),
        ("RED", Colour, "unknown choice 'RED'; did you mean red? (choices: red, blue)"),
        (True, Literal["a", 1], "unknown choice true (choices: a, 1)"),
        (2, Annotated[int, Field(ge=3)], "2 should be greater than or equal to 3"),
        (0, Annotated[float | None, Field(gt=0)], "0 should be greater than 0"),
        ("x", float | Inner, "'x' is not a valid float or mapping of low, high"),
        (1, Socket, "cannot be set in a recipe: it takes a Python object"),
    ],
)
def test_values_that_do_not_fit(value, hint, expected):
    assert message(value, hint) == expected


@pytest.mark.parametrize(
    ("value", "hint", "choices", "expected"),
    [
        ("auto", int | str | None, ("auto",), None),
        (8, int | str | None, ("auto",), None),
        (None, int | str | None, ("auto",), None),
        (
            "atuo",
            int | str | None,
            ("auto",),
            "unknown choice 'atuo'; did you mean auto? (choices: auto, 'any int')",
        ),
        (True, str, ("group", True), None),
        (1, str, ("group", True), "unknown choice 1 (choices: group, true)"),
        (["a", "b"], str | list[str], ("a", "b"), None),
        (["a", "c"], str | list[str], ("a", "b"), "unknown choice ['a', 'c'] (choices: a, b)"),
        (["a"], str, ("a", "b"), "unknown choice ['a'] (choices: a, b)"),
        (
            ["auto"],
            int | str,
            ("auto",),
            "unknown choice ['auto']; did you mean auto? (choices: auto, 'any int')",
        ),
    ],
)
def test_choices_narrow_a_type_that_is_too_wide(value, hint, choices, expected):
    assert message(value, hint, choices) == expected


def test_a_mapping_is_checked_key_by_key():
    given = {"cuont": 1, "names": "x", "mode": "fats", "hidden": 1}
    assert list(check_mapping(given, slots(Options), "option")) == [
        (("cuont",), "unknown option; did you mean count? (choices: count, names, mode)"),
        (("names",), "'x' is not a valid list of str"),
        (("mode",), "unknown choice 'fats'; did you mean fast? (choices: fast, slow)"),
        (("hidden",), "unknown option (choices: count, names, mode)"),
        (("count",), "missing; expected int"),
    ]
    assert list(check_mapping([1], slots(Options))) == [((), "[1] is not a mapping of count, names, mode")]
    assert not list(check_mapping({"count": 1}, slots(Options)))


def test_a_model_inside_a_model_is_checked_with_its_path_and_its_validators():
    class Outer(BaseModel):
        inner: Inner

    assert list(check_model({"inner": {"low": "x"}}, Outer)) == [(("inner", "low"), "'x' is not a valid float")]
    assert list(check_model({"inner": {"low": 2}}, Outer)) == [(("inner",), "low 2.0 is not below high 1.0")]
    assert list(check_model({}, Outer)) == [(("inner",), "missing; expected mapping of low, high")]

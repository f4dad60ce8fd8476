"""Typed checking of plain mappings, with nearest-name suggestions.

What comes out of YAML is compared with a class: a pydantic model, or a dataclass such as a trainer's config or a
reward. A check yields *problems*: pairs of the keys that lead to the culprit and a message about it. The caller puts
the two together, because only it knows in which part of a recipe the mapping stood.

Values are checked one key at a time with pydantic, as strictly as JSON is typed: `4.5` and `4.0` are not ints, `3` is
not a bool, `"1"` is not a number, while `1` is a float and `cosine` a member of an enum.
"""

import dataclasses
import difflib
import enum
import functools
import json
import operator
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter, ValidationError

Problem = tuple[tuple[str, ...], str]

LONG_LIST = 20  # of more choices than this only the nearest ones are shown
CONSTRAINTS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "value_error")


class Slot(NamedTuple):
    """What a key may hold: a type, perhaps with pydantic constraints, and `choices` where the type is too wide."""

    hint: Any
    required: bool = False
    choices: tuple = ()


def slots(cls: type) -> dict[str, Slot]:
    """Return the fields of a pydantic model or a dataclass (which may list `choices` in a field's metadata)."""
    if issubclass(cls, BaseModel):
        return {
            name: Slot(_constrained(field.annotation, field.metadata), field.is_required())
            for name, field in cls.model_fields.items()
        }
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: Slot(
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            tuple(field.metadata.get("choices") or ()),
        )
        for field in dataclasses.fields(cls)
        if field.init
    }


def _constrained(hint: Any, constraints: list) -> Any:
    return Annotated[(hint, *constraints)] if constraints else hint


def check_mapping(value: Any, fields: Mapping[str, Slot], kind: str = "key") -> Iterator[Problem]:
    """Yield what is wrong with a mapping: unknown keys (called `kind` in messages), missing keys, wrong values."""
    if not isinstance(value, dict):
        yield (), f"{show(value)} is not a {_mapping_of(fields)}"
        return
    for key, item in value.items():
        if key in fields:
            yield from (((key, *path), message) for path, message in check_value(item, fields[key]))
        else:
            yield (key,), f"unknown {kind}{suggestion(key, fields)}"
    for key, slot in fields.items():
        if slot.required and key not in value:
            yield (key,), f"missing; expected {_names(union_arms(slot.hint))}"


def check_value(value: Any, slot: Slot) -> Iterator[Problem]:
    """Yield what is wrong with the value of one key."""
    arms = union_arms(slot.hint)
    model = next((arm for arm in arms if _is_model(arm)), None)
    if model and isinstance(value, dict):
        yield from check_model(value, model)
        return
    members = [member for arm in arms for member in _members(arm)]
    choices = [*slot.choices, *members]
    message = _check_choice(value, choices, _open_arms(slot, arms)) if choices else _check_type(value, slot.hint)
    if message:
        yield (), message


def check_model(value: Any, model: type[BaseModel]) -> Iterator[Problem]:
    """Yield what is wrong with a mapping for a pydantic model; if every key is right, also what its validators say."""
    problems = list(check_mapping(value, slots(model)))
    yield from problems
    if not problems:
        try:
            model.model_validate(value)
        except ValidationError as error:
            for detail in error.errors():
                yield tuple(map(str, detail["loc"])), _in_words(detail)


def suggestion(name: str, choices: Iterable[Any]) -> str:
    """Return `; did you mean X? (choices: …)`; of a long list of choices only the nearest five are shown."""
    names = [choice if isinstance(choice, str) else show(choice) for choice in choices]
    near = difflib.get_close_matches(name.lower(), names, n=5, cutoff=0.6)
    text = f"; did you mean {near[0]}?" if near else ""
    if len(names) > LONG_LIST:
        return text + (f" (nearest: {', '.join(near)})" if near else "")
    return f"{text} (choices: {', '.join(names) or 'none'})"


def show(value: Any) -> str:
    """Return a value as it reads in YAML, cut to 80 characters."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def union_arms(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union (`int | None`), or the type itself; constraints are left out."""
    if typing.get_origin(hint) is Annotated:
        return union_arms(typing.get_args(hint)[0])
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def either(arms: Iterable[Any]) -> Any:
    """Return the union of types; the inverse of `union_arms`."""
    return functools.reduce(operator.or_, arms)


def _is_model(arm: Any) -> bool:
    return isinstance(arm, type) and issubclass(arm, BaseModel)


def _is_enum(arm: Any) -> bool:
    return isinstance(arm, type) and issubclass(arm, enum.Enum)


def _members(arm: Any) -> tuple:
    """Return the values of a `Literal` or an enum."""
    if typing.get_origin(arm) is Literal:
        return typing.get_args(arm)
    return tuple(member.value for member in arm) if _is_enum(arm) else ()


def _open_arms(slot: Slot, arms: tuple) -> list:
    """Return the types whose values are not listed one by one; beside an enum or choices, `str` only names these."""
    closed = slot.choices or any(_is_enum(arm) for arm in arms)
    return [arm for arm in arms if not _members(arm) and not (closed and arm is str)]


def _check_choice(value: Any, choices: list, open_arms: list) -> str | None:
    """Return None for one of the choices, a list of choices where a list may stand, or a value of an open type."""
    lists = [arm for arm in open_arms if typing.get_origin(arm) is list]
    items = value if isinstance(value, list) and lists else [value]
    if all(any(type(item) is type(choice) and item == choice for choice in choices) for item in items):
        return None
    others = [arm for arm in open_arms if arm not in lists]
    if others and _check_type(value, either(others)) is None:
        return None
    named = ["true, false" if arm is bool else f"any {_name(arm)}" for arm in others if arm is not type(None)]
    return f"unknown choice {show(value)}{suggestion(str(value), [*choices, *named])}"


def _check_type(value: Any, hint: Any) -> str | None:
    """Return None for a value of the type; JSON is what pydantic's strict mode takes enums and tuples from."""
    if hint is dict and isinstance(value, dict):
        return None  # whatever it holds, it is somebody else's to check
    try:
        TypeAdapter(hint).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValidationError as error:
        broken = [detail for detail in error.errors() if detail["type"] in CONSTRAINTS]
        if broken:
            return f"{show(value)} {_in_words(broken[0])}"
        return f"{show(value)} is not a valid {_names(union_arms(hint))}"
    except PydanticSchemaGenerationError:
        return "cannot be set in a recipe: it takes a Python object"
    except ValueError:  # json: not a number or infinite
        return f"{show(value)} is not finite"
    return None


def _in_words(detail: Mapping[str, Any]) -> str:
    return detail["msg"].removeprefix("Value error, ").removeprefix("Input ")


def _names(arms: tuple) -> str:
    """Name types for a message; that a key may also be null helps nobody."""
    return " or ".join(_name(arm) for arm in arms if arm is not type(None))


def _name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_model(hint):
        return _mapping_of(hint.model_fields)
    if hint is dict or origin is dict:
        return "mapping"
    if origin is list:
        return f"list of {_name(arguments[0])}"
    if origin is tuple:
        return f"list [{', '.join(map(_name, arguments))}]"
    return getattr(hint, "__name__", str(hint))


def _mapping_of(fields: Iterable[str]) -> str:
    names = list(fields)
    return f"mapping of {', '.join(names)}" if len(names) <= LONG_LIST else "mapping"

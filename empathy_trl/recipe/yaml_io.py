"""Reading and writing the YAML of recipes, strictly.

PyYAML reads YAML 1.1, which has surprises in a file about training: `5e-7` is a string there, `no` is false, `1:30` is
ninety, and of two equal keys the first one vanishes. Here the scalars are those of YAML 1.2's core schema (null, true
and false, decimal integers, floats with or without a dot; all else is a string), a duplicate key is an error, and every
error says in which file and line it is.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from empathy_trl.errors import RecipeError

RECIPE_FILE = "recipe.yaml"  # in the folders of a run and in a repository: the recipe as resolved
TAG = "tag:yaml.org,2002:"
LARGEST = 1_000_000  # bytes; ours have a few thousand
DEEPEST = 50  # PyYAML takes time with the square of the depth
NULL = re.compile(r"(~|null|Null|NULL|)$")
BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
INT = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
FLOAT = re.compile(
    r"([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        RecipeError: the file cannot be read or is not UTF-8, it is empty, it is not YAML, its top level is not a
            mapping, or a mapping in it has a key twice or a key that is not a string.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecipeError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise RecipeError([f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}"]) from error
    content = parse_yaml(text, str(path))
    if content is None:
        raise RecipeError([f"{path}: is empty; expected keys such as task, model and data"])
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise RecipeError([f"{path}: the top level is a {kind}; expected keys such as task, model and data"])
    return content


def parse_yaml(text: str, source: str) -> Any:
    """Return what a YAML text says; `source` stands in front of the line number in errors.

    Raises:
        RecipeError: `text` is not YAML or nested too deeply, or a mapping in it has a key twice or a key that is not a
            string.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError([f"{source}:{line}: {words}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError([f"{source}:{line}: character {chr(error.character)!r} is not allowed in YAML"]) from error
    except ValueError as error:  # an explicit tag that does not fit, such as `!!int x`
        raise RecipeError([f"{source}: {error}"]) from error
    except RecursionError as error:
        raise RecipeError([f"{source}: is nested too deeply"]) from error


def check_harmless(text: str, source: str) -> None:
    """Refuse YAML of a stranger that could take for ever; what is no YAML passes, whoever parses it says where it is not.

    Raises:
        RecipeError: it is longer or nested more deeply than any of ours, or repeats parts of itself by aliases.
    """
    if (size := len(text.encode())) > LARGEST:
        raise RecipeError([f"{source} has {size:,} bytes; expected at most {LARGEST:,}"])
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise RecipeError([f"{source} is nested too deeply; expected at most {DEEPEST} levels"])
            if isinstance(event, yaml.AliasEvent):
                raise RecipeError([f"{source} repeats parts of itself by aliases (*name); expected none"])
    except yaml.YAMLError:
        pass


def dump_yaml(content: dict[str, Any]) -> str:
    """Return YAML that `read_yaml` reads back as the same content, and so does PyYAML's own loader."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars and nothing but plain types: no dates, sets, binary or Python objects."""

    yaml_implicit_resolvers: ClassVar = {}
    yaml_constructors: ClassVar = {
        tag and f"{TAG}{tag}": yaml.SafeLoader.yaml_constructors[tag and f"{TAG}{tag}"]
        for tag in ("null", "bool", "int", "float", "str", "seq", None)  # None: any other tag is an error
    }

    def mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        """Construct a mapping with distinct string keys."""
        result, lines = {}, {}
        for key_node, value_node in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} is not a string; put it in quotes",
                    problem_mark=key_node.start_mark,
                )
            if key in lines:
                raise yaml.constructor.ConstructorError(
                    problem=f"duplicate key '{key}', first on line {lines[key]}",
                    problem_mark=key_node.start_mark,
                )
            result[key], lines[key] = self.construct_object(value_node, deep=True), line
        return result


_Loader.add_constructor(f"{TAG}map", _Loader.mapping)
for _name, _pattern, _first in (
    ("bool", BOOL, "tTfF"),
    ("int", INT, "-+0123456789"),
    ("float", FLOAT, "-+.0123456789"),
    ("null", NULL, ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"{TAG}{_name}", _pattern, list(_first))


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as something else; writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+.0123456789"))

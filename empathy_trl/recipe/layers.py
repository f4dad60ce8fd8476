"""From the YAML text of a recipe to the keys that apply to each stage.

YAML is read strictly. PyYAML reads YAML 1.1, which has surprises for training settings: `5e-7` is a string, `no` is
false, `1:30` is ninety, and the first of two duplicate keys is lost. Here scalars follow YAML 1.2's core schema (null,
true and false, decimal integers, floats with or without a dot; everything else is a string), a duplicate key is an
error, and every error names its file and line.

Keys come from a base recipe, the file's top level, its stages and the command line. `merge` combines two mappings:
nested mappings are merged key by key, other values are replaced, and null removes an inherited mapping. A `model` section
that names a preset replaces what the layers below it say of the model. `Layers` keeps the top level and the stages apart
until a stage is requested, so that an error can name the key as the user wrote it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from empathy_trl.errors import DataError, RecipeError, show, suggestion
from empathy_trl.io import read_text

RECIPE_FILE = "recipe.yaml"  # in the folders of a run and in a repository: the recipe as resolved
TAG = "tag:yaml.org,2002:"
NULL = re.compile(r"(~|null|Null|NULL|)$")
BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
INT = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
FLOAT = re.compile(
    r"([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)

STAGE_KEYS = ("task", "model", "data", "rewards", "trainer", "evaluation", "hub", "seed")
TOP_KEYS = ("name", "extends", "stages", *STAGE_KEYS)
STAGE_NAME = re.compile(r"[A-Za-z0-9_-]+")  # a folder's name, and one part of a dotted key
STAGE_PREFIX = "stage:"  # `model.name_or_path: stage:sft` is the model that stage sft made
REWARD_TASKS = ("grpo", "ppo")  # the tasks that learn from rewards
LABEL_TASKS = ("regress", "classify")  # the tasks that put a head on an encoder and learn from labels
ALL = "*"
# A section's key, once given, replaces more than itself: a model has one origin, a revision belongs to its repository, and a
# preset describes the whole model.
REPLACES = {
    "model": {
        "name_or_path": ("from_scratch", "revision"),
        "from_scratch": ("name_or_path", "revision"),
        "preset": (ALL,),
    },
    "data": {"path": ("revision",)},
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        RecipeError: the file cannot be read or is not UTF-8, it is empty, it is not YAML, its top level is not a
            mapping, or a mapping in it has a key twice or a key that is not a string.
    """
    try:
        text = read_text(path)
    except DataError as error:
        raise RecipeError([str(error)]) from error
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


def stage_of(model: Any) -> str | None:
    """Return the name in `stage:<name>`; None for anything else that may say where a model is."""
    return model.removeprefix(STAGE_PREFIX) if isinstance(model, str) and model.startswith(STAGE_PREFIX) else None


def starts_pretrained(task: Any, name_or_path: Any) -> bool:
    """Return whether a stage trains a pretrained model that writes: neither an earlier stage's, nor a head on an encoder."""
    return task not in LABEL_TASKS and name_or_path is not None and stage_of(name_or_path) is None


def merge(lower: dict, upper: dict, section: str = "", replaces: dict = REPLACES) -> dict:
    """Return `upper` laid over `lower`; both stay as they are."""
    replaced = {
        name for key, names in replaces.get(section, {}).items() if upper.get(key) is not None for name in names
    }
    result = {key: value for key, value in lower.items() if key not in replaced and ALL not in replaced}
    for key, value in upper.items():
        inherited = result.get(key)
        if isinstance(inherited, dict) and value is None:
            del result[key]
        elif isinstance(value, dict):
            result[key] = merge(inherited if isinstance(inherited, dict) else {}, value, key, replaces)
        else:
            result[key] = value
    return result


def parse_overrides(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Read `--a.b.c value` and `--a.b.c=value` into a nested mapping; the value is YAML, the last one counts.

    Returns:
        the mapping, and one line for each argument that is not of this form.
    """
    result, errors, rest, leaves = {}, [], list(arguments), {}
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        keys = flag.removeprefix("--").split(".")
        if not flag.startswith("--") or not all(keys):
            errors.append(f"{flag}: unexpected argument; expected --key value, such as --trainer.max_steps 20")
            continue
        if not equals and rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        if not text.strip():
            errors.append(f"{flag}: has no value; expected {flag} value (null for none)")
            continue
        try:
            value = parse_yaml(text, flag)
        except RecipeError as error:
            errors += [f"{line} in {text!r}" for line in error.errors]
            continue
        for key in reversed(keys):
            value = {key: value}
        new = dict(_leaves(value))
        errors += _contradictions(leaves, new)
        leaves |= new
        result = merge(result, value, replaces={})  # flags replace keys of the file, not each other
    return result, errors


def _contradictions(earlier: dict[tuple, Any], later: dict[tuple, Any]) -> Iterator[str]:
    """Yield a line for each override that sets a key inside a section that another override removes or replaces by a value.

    A model's name replaces all of `from_scratch`.
    """
    for first, second in ((earlier, later), (later, earlier)):
        for path, value in first.items():
            gone = [path] if value != {} else []
            gone += [(*path[:-1], "from_scratch")] if path[-2:] == ("model", "name_or_path") and value else []
            for inner in second:
                if any(len(inner) > len(each) and inner[: len(each)] == each for each in gone):
                    yield f"--{'.'.join(path)}: {show(value)} is given together with --{'.'.join(inner)}; expected one of the two"


def empty_mappings(upper: dict, lower: dict) -> Iterator[tuple[str, ...]]:
    """Yield the path of every empty mapping in `upper` that would be merged with a mapping with keys, and so change nothing."""
    for path, value in _leaves(upper):
        below = lower
        for key in path:
            below = below.get(key) if isinstance(below, dict) else None
        if value == {} and isinstance(below, dict) and below:
            yield path


NO_CHANGE = "{} changes nothing, because mappings are merged key by key; give keys, or null to remove the section"


class Layers:
    """A recipe's top level and its stages, with the command line laid over the file.

    Attributes:
        name: what the recipe calls itself, or None.
        top: the keys of the top level: defaults for every stage.
        stages: stage name -> the keys written in the stage. A recipe without `stages:` is one stage that is named after
            its task and holds all keys of the file; `top` is then empty.
        errors: what is wrong with the layers themselves, one line each.
    """

    def __init__(self, content: dict[str, Any], overrides: dict[str, Any]):
        self.errors: list[str] = []
        self.single = "stages" not in content
        written = {str(content.get("task")): {}} if self.single else content["stages"]
        changes = overrides.get("stages", {})
        if not self.single and isinstance(changes, dict) and isinstance(written, dict):
            changes, written = self._without_stages(changes, written)
        at_stages = self._check_overridden_stages(changes, written)
        at_top = {key: value for key, value in overrides.items() if key != "stages"}
        self.errors += [f"--{'.'.join(path)}: {NO_CHANGE}" for path in empty_mappings(at_top, content)]
        merged = merge(content, at_top)
        self.name = merged.pop("name", None)
        if self.single:
            for name, changes in at_stages.items():
                self.errors += [
                    f"--{'.'.join(path)}: sets the same as --stages.{name}.{'.'.join(inner)}, as this is the only stage; expected one of the two"
                    for path, _ in _leaves(at_top)
                    for inner, _ in _leaves(changes)
                    if all(one == other for one, other in zip(path, inner, strict=False))
                ]
                merged = merge(merged, changes)
            self.top, self.stages = {}, {str(merged.get("task")): merged}
        else:
            self.stages = self._check_stages(merge(written, at_stages) if at_stages else written)
            self.top = {key: value for key, value in merged.items() if key != "stages"}
            # a name from the command line replaces that of the file's preset, and leaves its other keys
            self._beside_preset = self.stages if _preset(at_top) is not None else written
            unknown = [key for key in self.top if key not in STAGE_KEYS]
            self.errors += [f"{key}: unknown key{suggestion(key, TOP_KEYS)}" for key in unknown]
            self.errors += self._overrides_without_effect(at_top, at_stages)
            for name in self.stages:
                before, inherited = written.get(name) or {}, self._inherited(name)
                empty = [("stages", path) for path in empty_mappings(before, inherited)]
                empty += [
                    ("--stages", path) for path in empty_mappings(at_stages.get(name, {}), merge(inherited, before))
                ]
                self.errors += [f"{start}.{'.'.join((name, *path))}: {NO_CHANGE}" for start, path in empty]

    def merged(self, stage: str) -> dict[str, Any]:
        """Return the keys that hold for a stage: its own, laid over the top level's; null sections are left out.

        A task without rewards does not inherit any, and only the last stage inherits `hub`: two models cannot share one
        repository. What the top level says of its data holds for no data of another kind, and its preset for no other model.
        """
        content = merge(self._inherited(stage), self.stages[stage])
        return {key: value for key, value in content.items() if value is not None}

    def _inherited(self, stage: str) -> dict[str, Any]:
        """Return the keys of the top level that hold for a stage."""
        own = self.stages[stage]
        defaults = {key: self.top[key] for key in STAGE_KEYS if key in self.top}
        if self._has_another_corpus(own, ("data",)):
            defaults.pop("data")
        if self._has_another_model(stage):
            defaults.pop("model")
        if own.get("task", self.top.get("task")) not in REWARD_TASKS:
            defaults.pop("rewards", None)
        if stage != list(self.stages)[-1]:
            defaults.pop("hub", None)
        return defaults

    def label(self, stage: str, path: tuple[str, ...]) -> str:
        """Return the dotted key under which the user wrote, or would write, a key of a stage."""
        inherited = _depth(self.top, path) > _depth(self.stages[stage], path)
        return ".".join(path if self.single or inherited else ("stages", stage, *path))

    def _check_stages(self, stages: Any) -> dict[str, dict]:
        if not isinstance(stages, dict) or not stages:
            self.errors.append(f"stages: {show(stages)} is not a mapping from a stage's name to its keys")
            return {}
        checked = {}
        for name, own in stages.items():
            if not STAGE_NAME.fullmatch(name):
                self.errors.append(f"stages: {name!r} cannot be a folder's name; use letters, digits, - and _")
            elif own is not None and not isinstance(own, dict):
                self.errors.append(f"stages.{name}: {show(own)} is not a mapping of {', '.join(STAGE_KEYS)}")
            else:
                checked[name] = own or {}
        return checked

    def _without_stages(self, changes: dict, written: dict) -> tuple[dict, dict]:
        """Return overrides and stages without the stages that an override takes away: `--stages.<name> null`."""
        gone = [name for name, change in changes.items() if change is None and name in written]
        left = {name: own for name, own in written.items() if name not in gone}
        if gone and not left:
            self.errors.append(f"--stages.{gone[-1]}: null leaves no stage")
            return {}, written
        return {name: change for name, change in changes.items() if name not in gone}, left

    def _check_overridden_stages(self, overrides: Any, written: Any) -> dict[str, dict]:
        """Return the overrides of stages that exist, each a mapping."""
        if not isinstance(overrides, dict) or not isinstance(written, dict):
            if overrides != {}:
                self.errors.append("--stages: expected --stages.<name>.<key> value for a stage of the recipe")
            return {}
        checked = {}
        for name, changes in overrides.items():
            if name not in written:
                self.errors.append(f"--stages.{name}: unknown stage {name!r}{suggestion(name, written)}")
            elif not isinstance(changes, dict):
                self.errors.append(
                    f"--stages.{name}: {show(changes)} is not a mapping; expected --stages.{name}.<key> value"
                )
            else:
                checked[name] = changes
        return checked

    def _overrides_without_effect(self, at_top: dict, at_stages: dict[str, dict]) -> Iterator[str]:
        """Yield a line for each override of the top level that a stage would silently ignore."""
        for path, _ in _leaves({key: value for key, value in at_top.items() if key in STAGE_KEYS}):
            key, owners, takers, overridden = ".".join(path), [], [], []
            for name, own in self.stages.items():
                if _is_set(at_stages.get(name, {}), path):
                    overridden.append(f"--stages.{name}.{key}")  # the user knows that this stage has its own
                elif _is_set(own, path) or (path[0] == "model" and _preset(own) is not None):
                    is_another = self._has_another_corpus(own, path) or (
                        path[0] == "model" and self._has_another_model(name)
                    )
                    owners += [] if is_another or _continues(own, path) else [name]
                elif _is_set(self.merged(name), path) or not _is_set(self.top, path):  # the latter: taken away by null
                    takers.append(name)
            stages = f"stage{'s' * (len(owners) > 1)} {', '.join(owners)}"
            sets = "set their own" if len(owners) > 1 else "sets its own"
            flags = ", ".join(f"--stages.{name}.{key}" for name in owners)
            if owners and takers:
                yield f"--{key}: has no effect in {stages}, which {sets}; give {flags} as well"
            elif owners:
                yield f"--{key}: has no effect, {stages} {sets}; use {flags}"
            elif not takers and overridden:
                yield f"--{key}: has no effect, because every stage gets its own with {', '.join(overridden)}; delete one of them"
            elif not takers:
                yield f"--{key}: has no effect, no stage takes it from the top level; use --stages.<name>.{key}"

    def _has_another_corpus(self, own: dict, path: tuple[str, ...]) -> bool:
        """Return whether a path is about the data of the top level, and a stage names data of another kind for itself."""
        data, inherited = own.get("data"), self.top.get("data")
        names = [section.get("name") if isinstance(section, dict) else None for section in (data, inherited)]
        return path[0] == "data" and None not in names and names[0] != names[1]

    def _has_another_model(self, stage: str) -> bool:
        """Return whether the top level names a preset, and a stage another model, or continues a stage that does."""
        if _preset(self.top) is None:
            return False
        if _preset(self.stages[stage]) is not None:
            return True
        model = (self._beside_preset[stage] or {}).get("model")
        if not isinstance(model, dict):
            return False
        if (source := stage_of(model.get("name_or_path"))) is None:
            return any(model.get(key) is not None for key in REPLACES["model"])
        names = list(self.stages)
        return source in names[: names.index(stage)] and self._has_another_model(source)


def _preset(content: dict) -> Any:
    """Return the preset that a top level, a stage or the command line names, or None."""
    model = content.get("model")
    return model.get("preset") if isinstance(model, dict) else None


def _leaves(content: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of everything that is not a mapping with keys."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _depth(content: Any, path: tuple[str, ...]) -> int:
    """Return how many of the keys of a path are there, from the top."""
    for depth, key in enumerate(path):
        if not isinstance(content, dict) or key not in content:
            return depth
        content = content[key]
    return len(path)


def _is_set(content: dict, path: tuple[str, ...]) -> bool:
    """Return whether a mapping sets the value at a path: the key is there, or something above it is no mapping."""
    for key in path:
        if not isinstance(content, dict):
            return True
        if key not in content:
            return False
        content = content[key]
    return True


def _continues(own: dict, path: tuple[str, ...]) -> bool:
    """Return whether a path is about the origin of a model, and a stage's own model is that of an earlier stage."""
    model = own.get("model")
    origin = model.get("name_or_path") if isinstance(model, dict) else None
    return path[0] == "model" and stage_of(origin) is not None

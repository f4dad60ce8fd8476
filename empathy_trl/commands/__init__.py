"""The command `empathy-trl`, and two of its commands, `list` and `copy`.

Every command is a function that takes its command line and returns the exit status: 0, 2 for an error that the user can
fix, or 130 after Ctrl-C. Its docstring is its help. The module of a command is imported when the command is called, and
imports torch only after it has checked the command line and the recipe.
"""

import importlib
import shutil
import sys
from pathlib import Path

import yaml

from empathy_trl import __version__
from empathy_trl.cli import command_parser, exit_status, path_flag
from empathy_trl.errors import UserError, suggestion
from empathy_trl.io import shipped_folder, yaml_titles

# name -> module:function, what it does
COMMANDS = {
    "run": ("run:run", "train and evaluate the stages of a recipe"),
    "evaluate": ("evaluate:evaluate", "evaluate models on the data of a recipe"),
    "compare": ("evaluate:compare", "compare two evaluations row by row"),
    "explain": ("evaluate:explain", "show the rewards of given completions"),
    "score": ("evaluate:score", "score responses with an LLM judge"),
    "leaderboard": ("hub:leaderboard", "rank many evaluations in one table"),
    "hub": ("hub:hub", "push a model to the Hub, pull one, or print its card"),
    "chat": ("chat:chat", "talk to a model"),
    "list": (":list_shipped", "list the recipes, model presets and accelerate configs that come with the package"),
    "copy": (":copy_shipped", "copy one of them into a folder, to edit it"),
}
SHIPPED = ("recipes", "recipes/models", "accelerate_configs")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        print(f"error: {name}: no such command{suggestion(name, COMMANDS, 'commands')}", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[name][0].partition(":")
    try:
        return getattr(importlib.import_module(f"{__name__}.{module}".rstrip(".")), function)(rest)
    except KeyboardInterrupt:  # while the modules are imported; later ones are the command's
        print("\ninterrupted", file=sys.stderr)
        return 130


def usage() -> str:
    """Return the help of `empathy-trl` itself."""
    lines = [
        "usage: empathy-trl COMMAND ...",
        "",
        "Train language models to respond with empathy.",
        "",
        *(f"  {name:<12} {summary}" for name, (_, summary) in COMMANDS.items()),
        "",
        "Help for a command: empathy-trl COMMAND --help",
        "Several processes: accelerate launch -m empathy_trl.commands run --recipe ...",
    ]
    return "\n".join(lines)


def list_shipped(arguments: list[str] | None = None) -> int:
    """List the recipes, model presets and accelerate configs that come with the package, each with its first line.

    empathy-trl run --recipe NAME trains a recipe, and --model.preset NAME trains it with another model; empathy-trl copy NAME
    copies one of them, to edit it.
    """
    command_parser("list", list_shipped.__doc__).parse_args(arguments)
    return exit_status(_list)


def _list() -> None:
    for folder in SHIPPED:
        print(f"{folder}:")
        for name, title in yaml_titles(shipped_folder(folder)):
            print(f"  {name:<24} {title}")


def copy_shipped(arguments: list[str] | None = None) -> int:
    """Copy a recipe, with the recipe it extends, a model preset or an accelerate config, to edit it.

        empathy-trl copy ed4_tiny
        empathy-trl copy qwen3_4b
        empathy-trl copy ed4_gemma mine.yaml
        empathy-trl copy zero3 configs

    Existing files are not overwritten.
    """
    parser = command_parser("copy", copy_shipped.__doc__)
    parser.add_argument("name", help="one of the names that empathy-trl list prints, with or without .yaml")
    parser.add_argument(
        "destination",
        nargs="?",
        type=path_flag,
        default=Path(),
        help="a folder, or a file name that ends in .yaml (default: .)",
    )
    options = parser.parse_args(arguments)
    return exit_status(lambda: _copy(options.name, options.destination))


def _copy(name: str, destination: Path) -> None:
    source = _find(name)
    target = destination if destination.suffix == ".yaml" else destination / source.name
    pairs = {target: source}
    base = yaml.safe_load(source.read_text(encoding="utf-8")).get("extends")
    if base is not None:
        pairs[target.parent / base] = source.parent / base
    for path, original in pairs.items():
        if path.exists() and path.read_bytes() != original.read_bytes():
            raise UserError(f"{path}: exists and differs from {original.name}; choose another folder or file name")
    for path, original in pairs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            shutil.copyfile(original, path)
        print(path)


def _find(name: str) -> Path:
    """Return the file of a recipe, preset or config that comes with the package."""
    files = {
        Path(file).stem: shipped_folder(folder) / file
        for folder in SHIPPED
        for file, _ in yaml_titles(shipped_folder(folder))
    }
    stem = name.removesuffix(".yaml")
    if stem not in files:
        raise UserError(
            f"{name}: no such recipe, model preset or accelerate config{suggestion(stem, files)}; empathy-trl list prints all"
        )
    return files[stem]

"""The structure of the package, measured from its imports: `python -m tests.structure` prints it."""

import ast
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "empathy_trl"
# A folder may import its own layer's folder and the layers before it, never a later one
LAYERS = (
    ("helpers",),
    ("data",),
    ("models",),
    ("rewards",),
    ("trainers", "recipe"),
    ("evaluation", "chat"),
    ("hub",),
    ("tasks",),
    ("memory",),
    ("check",),
    ("commands",),
)
HELPERS = ("errors", "tags", "text", "io", "engine", "cli")
LAYER = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}


@dataclass(frozen=True)
class Arrow:
    """One import: which module imports which, and in which line."""

    source: str
    target: str
    line: int
    inside_function: bool


@dataclass
class Structure:
    """What a reader has to hold in the head.

    Attributes:
        modules: dotted name below the package -> number of lines.
        arrows: every import of one of the package's modules by another.
        longest: lines, `module:function` of the longest function.
    """

    modules: dict[str, int] = field(default_factory=dict)
    arrows: list[Arrow] = field(default_factory=list)
    longest: tuple[int, str] = (0, "")

    @property
    def loose(self) -> list[str]:
        """Modules at the top of the package, without `__init__`."""
        return sorted(name for name in self.modules if name and "." not in name and name not in self._folders)

    @property
    def _folders(self) -> set[str]:
        return {name.split(".")[0] for name in self.modules if "." in name}

    def folder(self, module: str) -> str:
        """Return the layer's name that a module belongs to."""
        top = module.split(".")[0]
        return "helpers" if top in HELPERS else top

    def wrong_arrows(self) -> list[Arrow]:
        """Return the imports that point to a later layer, or to another folder of the same layer."""
        return [arrow for arrow in self.arrows if self._is_wrong(arrow)]

    def _is_wrong(self, arrow: Arrow) -> bool:
        source, target = self.folder(arrow.source), self.folder(arrow.target)
        if source == target or not source or not target:  # the package's own __init__ is the front door to everything
            return False
        return LAYER[source] <= LAYER[target]

    def cycles(self) -> list[tuple[str, str]]:
        """Return the pairs of folders that import each other, directly or through others."""
        reach = defaultdict(set)
        for arrow in self.arrows:
            source, target = self.folder(arrow.source), self.folder(arrow.target)
            if source and target and source != target:
                reach[source].add(target)
        for middle in list(reach):
            for source in list(reach):
                if middle in reach[source]:
                    reach[source] |= reach[middle]
        return sorted((a, b) for a, targets in reach.items() for b in targets if a < b and a in reach.get(b, ()))

    def lines(self) -> dict[str, tuple[int, int]]:
        """Return folder -> (modules, lines)."""
        totals = defaultdict(lambda: (0, 0))
        for name, lines in self.modules.items():
            top = name.split(".")[0] if name.split(".")[0] in self._folders else "(top)"
            totals[top] = (totals[top][0] + 1, totals[top][1] + lines)
        return dict(sorted(totals.items()))


def measure(root: Path = ROOT) -> Structure:
    """Read every module of the package below `root`; nothing is imported."""
    structure = Structure()
    files = {}
    for file in sorted((root / PACKAGE).rglob("*.py")):
        name = ".".join(file.relative_to(root / PACKAGE).with_suffix("").parts)
        files[name.removesuffix("__init__").rstrip(".")] = file
    for name, file in files.items():
        text = file.read_text(encoding="utf-8")
        structure.modules[name] = text.count("\n")
        tree = ast.parse(text)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inner = {id(node) for function in functions for node in ast.walk(function)}
        for function in functions:
            length = function.end_lineno - function.lineno + 1
            structure.longest = max(structure.longest, (length, f"{name}:{function.name}"))
        for node in ast.walk(tree):
            for target in sorted(_imported(node, files) - {name}):
                structure.arrows.append(Arrow(name, target, node.lineno, id(node) in inner))
    return structure


def _imported(node: ast.AST, files: dict[str, Path]) -> set[str]:
    """Return the modules of the package that one statement imports, each once however many names it takes."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
        return {_below(name) for name in names if name.split(".")[0] == PACKAGE}
    if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != PACKAGE:
        return set()
    below = _below(node.module)
    longer = [f"{below}.{alias.name}".lstrip(".") for alias in node.names]
    return {name if name in files else below for name in longer}


def _below(module: str) -> str:
    """Return a dotted name without the package's own."""
    return module.removeprefix(PACKAGE).lstrip(".")


def main() -> None:
    """Print the figures, and what breaks a rule."""
    structure = measure()
    inside = sum(arrow.inside_function for arrow in structure.arrows)
    print(f"modules: {len(structure.modules)}, lines: {sum(structure.modules.values())}")
    print(f"loose at the top: {len(structure.loose)} ({', '.join(structure.loose)})")
    print(f"longest function: {structure.longest[0]} lines ({structure.longest[1]})")
    print(f"imports inside functions: {inside}")
    print(f"folders that import each other: {structure.cycles() or 'none'}")
    print(f"wrong arrows: {len(structure.wrong_arrows())}")
    for arrow in structure.wrong_arrows():
        print(f"  {PACKAGE}.{arrow.source}:{arrow.line} imports {arrow.target}")
    for folder, (modules, lines) in structure.lines().items():
        print(f"{folder:12} {modules:4} modules {lines:6} lines")


if __name__ == "__main__":
    main()

"""The scripts of `recipes/`, which is no package, as functions."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def script(name: str):
    """Return `main` of a script, such as `run`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def without_pictures(patch) -> None:
    """Leave empty files in place of pictures, which have tests of their own and take a fifth of a short run."""
    patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **settings: Path(file).touch())


def finished_run(content: str, folder: Path) -> tuple[Path, Path]:
    """Run a recipe of this content in a folder; return the recipe and its output folder."""
    recipe, output = folder / "small.yaml", folder / "out"
    recipe.write_text(content)
    assert script("run")(["--recipe", str(recipe), "--output_dir", str(output)]) == 0
    return recipe, output

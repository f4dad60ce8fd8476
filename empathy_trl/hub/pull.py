"""Fetching what was published: a model with its recipe and its results, into a folder that all other commands take.

Only files of kinds that are read as data come along. Weights as pickles and Python files, which can run code, stay on the
Hub, and so does everything that nobody here would read.
"""

import json
from pathlib import Path, PurePosixPath

from empathy_trl.errors import RecipeError, UserError
from empathy_trl.io import json_or_none, write_text
from empathy_trl.models.hub_files import join_revision, split_revision
from empathy_trl.recipe.layers import RECIPE_FILE, read_yaml
from empathy_trl.recipe.load import PULL_FILE
from empathy_trl.recipe.schema import HUB_MODEL
from empathy_trl.text import printable

PULLS = Path("outputs") / "hub"
KINDS = (".safetensors", ".json", ".jsonl", ".yaml", ".md", ".txt", ".png", ".model", ".jinja")


def pull(name: str, output_dir: Path | None = None) -> Path:
    """Fetch model, recipe and results of a repository on the Hub, and print what they are.

    Interrupted, the same call goes on with what is missing. A folder with other files, or with another commit, is never
    written into.

    Args:
        name: `USER/REPO` or `USER/REPO@revision`.
        output_dir: by default outputs/hub/USER/REPO.

    Returns the folder.

    Raises:
        UserError: the repository cannot be had, has nothing to fetch, or the folder holds something else.
    """
    from huggingface_hub import HfApi, snapshot_download

    from empathy_trl.models.hub_files import hub_errors

    repo, revision = split_revision(name)
    if "/" not in repo or not HUB_MODEL.fullmatch(repo):
        raise UserError(f"{name}: expected USER/REPO, or USER/REPO@ with a branch, a tag or a commit")
    folder = Path(output_dir) if output_dir else PULLS / repo
    with hub_errors(repo, revision):
        found = HfApi().model_info(repo, revision=revision)
        files = [each.rfilename for each in found.siblings or ()]
        wanted = [file for file in files if _is_wanted(file)]
        if not wanted:
            raise UserError(f"{name}: has no files to fetch (kinds: {', '.join(KINDS)}); found {_listed(files)}")
        _claim(folder, repo, found.sha)
        snapshot_download(
            repo, revision=found.sha, local_dir=folder, allow_patterns=[_literal(file) for file in wanted]
        )
    print(f"{join_revision(repo, revision)}, commit {found.sha[:12]}: {len(wanted)} files in {folder}")
    left = [file for file in files if not _is_wanted(file) and PurePosixPath(file).name != ".gitattributes"]
    if left:
        print(f"left on the Hub, as no kind of file that is needed: {printable(_listed(left))}")
    for line in describe(folder):
        print(printable(line))
    return folder


def _is_wanted(file: str) -> bool:
    """Return whether a file is of a kind that is read as data, and stays inside the folder; hidden ones set up editors."""
    path = PurePosixPath(file)
    inside = (
        file.isprintable()
        and not path.is_absolute()
        and "\\" not in file
        and not any(part.startswith(".") for part in path.parts)
    )
    return inside and path.suffix in KINDS and file != PULL_FILE


def _literal(file: str) -> str:
    """Return the pattern that matches a file and nothing else."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in file)


def _listed(files: list[str]) -> str:
    more = f" and {len(files) - 10} more" if len(files) > 10 else ""
    return (", ".join(sorted(files)[:10]) or "nothing") + more


def _claim(folder: Path, repo: str, commit: str) -> None:
    """Note in the folder what it is for; raise UserError if it holds something else."""
    wanted = {"repo_id": repo, "commit": commit}
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder, give another --output_dir")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            there = json.loads((folder / PULL_FILE).read_text(encoding="utf-8"))
            there = {key: str(there[key]) for key in wanted}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: holds files that no pull put there; give another --output_dir") from error
        if there != wanted:
            raise UserError(
                f"{folder}: holds {there['repo_id']} at commit {there['commit'][:12]}, and {repo} at {commit[:12]} was asked "
                "for; delete the folder, or give another --output_dir"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PULL_FILE, json.dumps(wanted, indent=2) + "\n")


def describe(folder: Path) -> list[str]:
    """Return lines that say what a pulled folder holds: kind of model, recipe, results with 95 % intervals."""
    return [f"model:   {_model_line(folder)}", f"recipe:  {_recipe_line(folder)}", *_result_lines(folder)]


def _model_line(folder: Path) -> str:
    adapter, config = json_or_none(folder / "adapter_config.json"), json_or_none(folder / "config.json")
    if adapter is not None:
        base = join_revision(str(adapter.get("base_model_name_or_path")), adapter.get("revision"))
        return f"LoRA adapter on {base}, which is fetched when the adapter is loaded"
    if config is None:
        return "none (neither adapter_config.json nor config.json)"
    kinds = config.get("architectures")
    return ", ".join(map(str, kinds)) if isinstance(kinds, list) and kinds else str(config.get("model_type"))


def _recipe_line(folder: Path) -> str:
    path = folder / RECIPE_FILE
    if not path.is_file():
        return f"none ({RECIPE_FILE} is missing: not published by empathy-trl?)"
    try:
        content = read_yaml(path)
    except RecipeError as error:
        return f"cannot be read: {error}"
    stages = content["stages"] if isinstance(content.get("stages"), dict) else {"": content}
    tasks = [f"{name} ({own.get('task')})".strip() for name, own in stages.items() if isinstance(own, dict)]
    return f"{content.get('name')}: {' → '.join(tasks)}"


def _result_lines(folder: Path) -> list[str]:
    """Return one line for every metric of every evaluation that came along."""
    lines = []
    for path in sorted(folder.glob("eval_*.json")):
        evaluation = json_or_none(path) or {}
        data, metrics = evaluation.get("data"), evaluation.get("metrics")
        if not isinstance(data, dict) or not isinstance(metrics, dict):
            lines.append(f"results: {path.name} is no evaluation")
            continue
        lines.append(f"results: {path.name}: {data.get('n')} rows of {data.get('name')}, split {data.get('split')}")
        lines += [f"         {name} {_figure(figure)}" for name, figure in metrics.items()]
    return lines or ["results: none (no eval_<split>.json)"]


def _figure(figure) -> str:
    """Return a metric with its interval; a figure of another form as it is."""
    try:
        return "{value:.3f} [{low:.3f}, {high:.3f}], n = {n}".format(**figure)
    except (TypeError, KeyError, ValueError):
        return str(figure)[:60]

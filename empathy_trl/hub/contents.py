"""What of a stage's folder is published: an allow list, and texts without what is nobody else's business.

Not on the list, and so never published: checkpoints and the optimizer's state, `training_args.bin` (a pickle),
`predictions_*.jsonl` (they repeat the rows of the data), a critic, logs, and whatever else lies in the folder.
"""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.io import read_json
from empathy_trl.models.hub_files import ADAPTER_FILE, VOCABULARY_FILES
from empathy_trl.recipe.layers import dump_yaml, read_yaml
from empathy_trl.text import mask

WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"]
CONFIGS = ["config.json", "generation_config.json", ADAPTER_FILE]
TOKENIZER = [
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
]
MODEL = [*WEIGHTS, *CONFIGS, *TOKENIZER]
RUN = ["recipe.yaml", "run.json", "metrics.jsonl", "samples.md", "notes.md", "eval_*.json"]
PICTURES = ["*.png"]
CARD = "README.md"

Contents = dict[str, Path | bytes]  # name in the repository -> a file, or what it will hold


def is_ours(name: str) -> bool:
    """Whether a file in a repository is one that a push would have put there."""
    return name == CARD or _matches(name, [*MODEL, *RUN, *PICTURES])


def model_files(folder: Path) -> Contents:
    """Return the files of the model or the adapter in a folder, and of its tokenizer.

    Raises:
        UserError: there is no model in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected that of a trained stage, such as outputs/ed4_tiny/grpo")
    files = {path.name: path for path in found(folder, MODEL)}
    weights = any(_matches(name, WEIGHTS) for name in files)
    if not weights or not {"config.json", ADAPTER_FILE} & files.keys():
        stages = sorted(path.parent.name for path in folder.glob("*/run.json"))
        more = f"; it holds the stages {', '.join(stages)}: name one of these" if stages else ""
        raise UserError(f"{folder}: holds no model; expected {ADAPTER_FILE} or config.json, with *.safetensors{more}")
    return files


def run_files(folder: Path, repo_id: str) -> Contents:
    """Return what the run left beside the model: its texts cleaned (see `cleaned`), its pictures as they are."""
    texts = {path.name: cleaned(path, repo_id) for path in found(folder, RUN)}
    return texts | {path.name: path for path in found(folder, PICTURES)}


def cleaned(path: Path, repo_id: str) -> bytes:
    """Return an artefact as it is published.

    An evaluation names the repository as its model, not the folder it was in. A recipe loses `hub`: whoever repeats the run
    shall not push to this repository. All lose what `without_secrets` takes out.
    """
    if path.name == "recipe.yaml":
        text = _without_hub(read_yaml(path))
    elif path.name.startswith("eval_"):
        text = json.dumps(read_json(path) | {"model": repo_id}, indent=2, ensure_ascii=False) + "\n"
    else:
        text = path.read_text(encoding="utf-8")
    return without_secrets(text)


def without_secrets(text: str) -> bytes:
    """Return a text with `~` for the home folder and `[token]` for what looks like a token, as UTF-8."""
    return mask(_without_home(text)).encode()


def _without_hub(recipe: dict) -> str:
    stages = {name: {**stage, "hub": None} for name, stage in recipe.get("stages", {}).items()}
    return dump_yaml({key: value for key, value in recipe.items() if key != "hub"} | {"stages": stages})


def _without_home(text: str) -> str:
    home = str(Path.home())
    return text if home == "/" else re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)


def found(folder: Path, patterns: list[str]) -> list[Path]:
    """Return the files right in a folder whose names match one of the patterns, sorted."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and _matches(path.name, patterns)]


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

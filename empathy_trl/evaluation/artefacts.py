"""The files of an evaluation, in public formats: leaderboard, cards and reports read these and nothing else.

* `eval_<split>.json`: `{"recipe", "stage", "model", "data": {"source", "split", "n"}, "metrics": {name:
  {"value", "low", "high", "n"}}, "baselines": {name: metrics}, "confusion": {"rows", "columns", "counts"},
  "seed", "versions"}`
* `predictions_<split>.jsonl`: one row per example, `{"index", "text", "label", "prediction", "correct",
  "completion"}`; `index` is the row in the whole split, `prediction` is null when the answer is invalid.
* `confusion_<split>.png`

Every file is written beside its place and then renamed: a reader never sees half of one.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from empathy_trl.errors import UserError


def eval_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"eval_{split}.json"


def predictions_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"predictions_{split}.jsonl"


def confusion_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"confusion_{split}.png"


def write_eval(folder: str | Path, split: str, result: dict) -> Path:
    """Write `eval_<split>.json`; NaN and infinity are refused (ValueError), they are no JSON."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(eval_path(folder, split), text)


def read_eval(folder: str | Path, split: str) -> dict:
    """Read `eval_<split>.json`. UserError names the file when it is missing or broken."""
    path = eval_path(folder, split)
    return _parsed(path, 1, _text(path))


def write_predictions(folder: str | Path, split: str, rows: list[dict]) -> Path:
    """Write `predictions_<split>.jsonl`, one line per row."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    return write_text(predictions_path(folder, split), "".join(lines))


def read_predictions(folder: str | Path, split: str) -> list[dict]:
    """Read `predictions_<split>.jsonl`. UserError names file and line when it is missing or broken."""
    return read_rows(predictions_path(folder, split))


def read_rows(path: str | Path) -> list[dict]:
    """Read a file with one JSON object per line. UserError names file and line."""
    # not str.splitlines: it also splits at characters such as U+2028, which JSON leaves as they are
    lines = enumerate(_text(Path(path)).split("\n"), start=1)
    return [_parsed(path, number, line) for number, line in lines if line.strip()]


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it; the folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file; evaluate the model first")
    return path.read_text(encoding="utf-8")


def _parsed(path: Path, line: int, text: str) -> dict:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {line + error.lineno - 1}: not valid JSON ({error.msg})") from error

"""The files of an evaluation, in public formats: leaderboard, cards and reports read these and nothing else.

* `eval_<split>.json`: `{"recipe", "stage", "model", "kind", "data": {"name", "source", "revision", "split", "n", "rows",
  "decoding"}, "metrics": {name: {"value", "low", "high", "n"}}, "baselines": {name: metrics}, "seed", "metrics_version",
  "versions"}`. `rows` is a digest of the questions and what they are held against: two results with the same one saw the
  same rows, whatever the folder was called. Figures of different `metrics_version` of a kind mean different things. After
  the baselines stands what the kind adds: emotions `confusion` (`{"rows", "columns", "counts"}`), labels `confusions`
  (group -> the same), ratings and pairs `ratings` (their names), replies `judged_by` (reward -> its parameters, its weight at
  the end of training and, where it asks a model, a digest as `weights`), `classifiers` (epitome, emotion, intent or
  bertscore -> the model that gave its figures, as `judges` says) and `left_out` (metric -> why it has no value). A
  perplexity also has `tokens`. `decoding` is there for completions.
* `predictions_<split>.jsonl`: one row per example. `index` is the row in the whole split, `text` what was asked; the
  rest depends on the kind:
  emotions `{"label", "prediction", "correct", "completion"}`, `prediction` being null when the answer is invalid;
  labels `{"label", "prediction", "correct"}`, the labels of several groups separated by " / ", `correct` a share;
  ratings `{"label", "prediction", "error"}`, the first two rating -> number, `error` their mean absolute difference;
  pairs `{"label", "prediction", "right_share"}`, the first two rating -> number, the last null for a reply without a pair;
  replies `{"completion", "reply", "reference", "rewards", "reward", "metrics"}`, `rewards` reward -> number or null,
  `reward` null where no reward applies, and `metrics` name -> number or null for every metric that is a mean over rows.
* `predictions_<split>.partial.jsonl`: the completions of an evaluation that is not done, see `stream`.
* `confusion_<split>.png` (emotions, labels; with several groups `confusion_<group>_<split>.png`), `ratings_<split>.png`

Every file but the partial one is written beside its place and then renamed: a reader never sees half of one.
"""

import json
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.files import read_json, read_rows, write_rows, write_text


def eval_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"eval_{split}.json"


def predictions_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"predictions_{split}.jsonl"


def confusion_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"confusion_{split}.png"


def ratings_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"ratings_{split}.png"


def write_eval(folder: str | Path, split: str, result: dict) -> Path:
    """Write `eval_<split>.json`; NaN and infinity are refused (ValueError), they are no JSON."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(eval_path(folder, split), text)


def read_eval(folder: str | Path, split: str) -> dict:
    """Read `eval_<split>.json`. UserError names the file when it is missing or broken."""
    return read_json(_existing(eval_path(folder, split)))


def write_predictions(folder: str | Path, split: str, rows: list[dict]) -> Path:
    """Write `predictions_<split>.jsonl`, one line per row."""
    return write_rows(predictions_path(folder, split), rows)


def read_predictions(folder: str | Path, split: str) -> list[dict]:
    """Read `predictions_<split>.jsonl`. UserError names file and line when it is missing or broken."""
    return read_rows(_existing(predictions_path(folder, split)))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; evaluate the model first")
    return path

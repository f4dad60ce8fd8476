"""ED_easy_4: which of four emotions does a situation express?

Three sources give the same rows: the embedded corpus ("sample"), a local folder of CSV files, and
EmpatheticDialogues on the Hub. `read_split` turns any of them into clean rows, `build` writes prompts (and,
for the warm start, completions) around the rows. The situation stands last in the prompt: whatever shortens a
text can never touch the instruction.
"""

from importlib.resources import files
from pathlib import Path

from empathy_trl.data import on_hub
from empathy_trl.data.rationale import label_shares, rationale
from empathy_trl.data.tables import (
    BadRow,
    Report,
    Row,
    check_columns,
    did_you_mean,
    quote,
    read_csv,
    settle_bad_rows,
)
from empathy_trl.data.text import clean, truncate_start
from empathy_trl.errors import DataError, UserError

# The position is the number of the label in the CSV files.
LABELS = ("sad", "joyful", "angry", "afraid")
TASKS = ("sft", "grpo")
EVALUATION = "emotions"  # how completions are evaluated

PROMPT = (
    "Which emotion does this situation express: sad, joyful, angry or afraid?\n"
    "Reason briefly, then answer with one of these words, in this format:\n"
    "<reasoning>brief reasoning</reasoning><answer>emotion</answer>\n"
    "Situation: "
)

_LABEL_OF = {str(number): label for number, label in enumerate(LABELS)} | {label: label for label in LABELS}
_FILES = {"train": ("train.csv",), "valid": ("valid.csv", "validation.csv"), "test": ("test.csv",)}

# The branch where the Hub keeps every data set as parquet; the main branch of EmpatheticDialogues is a
# script, which `datasets` no longer runs.
_HUB_REVISION = "refs/convert/parquet"
_HUB_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def make_prompt(text: str) -> list[dict[str, str]]:
    """Return the conversational prompt of a situation: one user message, as gemma has no system role."""
    return [{"role": "user", "content": PROMPT + text}]


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, one row per situation, in the order of the source.

    Columns: `prompt` (one user message), `text` (clean situation), `label` (one of `LABELS`); for task "sft"
    also `completion` (one assistant message `<reasoning>…</reasoning><answer>label</answer>`, the reasoning
    being a template: see `rationale.py`). Words are scored on the rows of this split and portion, nothing
    else is looked at.

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    if task not in TASKS:
        raise UserError(f"the ed4 data has no columns for task {task!r}{did_you_mean(task, TASKS)}")
    rows, _ = read_split(config, split)
    # Imported here, not above: it takes a second, and --check and --help can do without.
    from datasets import Dataset

    columns = {
        "prompt": [make_prompt(row["text"]) for row in rows],
        "text": [row["text"] for row in rows],
        "label": [row["label"] for row in rows],
    }
    if task == "sft":
        shares = label_shares(rows)
        columns["completion"] = [_completion(row["text"], row["label"], shares) for row in rows]
    return Dataset.from_dict(columns)


def read_split(config, split: str) -> tuple[list[dict[str, str]], Report]:
    """Return `(rows, report)` of one split: dicts with `text` and `label`, in the order of the source.

    `config.path` is "sample", a folder (write "./sample" for one of that name), or a Hub id "owner/name".
    `config.portion` (low, high) keeps the rows from int(low * n) to int(high * n) of the n good rows of the
    training split, so portions that share a bound share no row; other splits stay whole.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is
    left; `UserError` for an unknown split or a Hub id that cannot be loaded.
    """
    if split not in _FILES:
        raise UserError(f"unknown split {split!r}{did_you_mean(split, _FILES)}")
    source, raw = _read_source(config.path, config.revision, split)
    parsed = [row if isinstance(row, BadRow) else _parse(row) for row in raw]
    bad = [row for row in parsed if isinstance(row, BadRow)]
    good = [row for row in parsed if not isinstance(row, BadRow)]
    dropped = settle_bad_rows(source, bad, len(raw), config.on_bad_rows)
    if split == "train":
        low, high = config.portion
        total, good = len(good), good[int(low * len(good)) : int(high * len(good))]
        if not good:
            raise DataError(f"{source}: data.portion [{low}, {high}] of {total} rows leaves no row")
    rows = [row | {"text": truncate_start(row["text"], config.max_words)} for row in good]
    shortened = sum(row["text"] != whole["text"] for row, whole in zip(rows, good, strict=True))
    return rows, Report(source, len(raw), dropped, len(rows), shortened)


def _completion(text: str, label: str, shares) -> list[dict[str, str]]:
    content = f"<reasoning>{rationale(text, label, shares)}</reasoning><answer>{label}</answer>"
    return [{"role": "assistant", "content": content}]


def _parse(row: Row) -> dict[str, str] | BadRow:
    """Check one row with the cells `text` and `label`; text is looked at first."""
    text, value = clean(row.cells["text"]), row.cells["label"]
    if not text:
        detail = f"nothing is left of {quote(row.cells['text'])} after cleaning"
        return BadRow(row.where, "empty text", detail)
    label = _LABEL_OF.get(value.strip().lower())
    if label is None:
        choices = ", ".join(f"{number} or {name}" for number, name in enumerate(LABELS))
        return BadRow(row.where, "unknown label", f"{quote(value)} (choices: {choices})")
    return {"text": text, "label": label}


def _read_source(path: str, revision: str | None, split: str) -> tuple[str, list[Row | BadRow]]:
    """Return `(name for messages, rows)` of one split, from whatever kind of source `path` names."""
    if on_hub(path):
        return _read_hub(path, revision or _HUB_REVISION, split)
    folder = files("empathy_trl.data").joinpath("sample") if path == "sample" else Path(path).expanduser()
    if folder.is_file():
        raise DataError(f"data.path: {path} is a file; give the folder that holds the split files")
    if not folder.is_dir():
        raise DataError(
            f"data.path: no folder {quote(path)} here; expected 'sample' (the embedded corpus), a folder "
            "with train.csv, valid.csv and test.csv, or a Hub id such as 'facebook/empathetic_dialogues'"
        )
    for name in _FILES[split]:
        file = folder.joinpath(name)
        if file.is_file():
            return str(file), read_csv(file, ("text", "label"))
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "none"
    raise DataError(f"data.path: {folder} has no {' or '.join(_FILES[split])} (files found: {found})")


def _read_hub(name: str, revision: str, split: str) -> tuple[str, list[Row]]:
    """Read EmpatheticDialogues from the Hub or its cache: the situation of each conversation whose
    emotion is one of `LABELS`.

    The data set has one row per utterance; `context` (the emotion) and `prompt` (the situation) are the same
    in all rows of a conversation, and its commas are written `_comma_`.
    """
    import httpx
    from datasets import load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    source = f"{name} (revision {revision}, split {_HUB_SPLITS[split]})"
    # `datasets` reports a gated, private or unknown data set as a FileNotFoundError, no network as a
    # ConnectionError.
    try:
        table = load_dataset(name, revision=revision)
    except (ConnectionError, FileNotFoundError, HfHubHTTPError, httpx.TransportError) as error:
        raise UserError(
            f"data.path: cannot load {name!r} (revision {revision}) from the Hub, and there is no folder "
            f"of that name: {error}\nIf it is gated or private, log in with `hf auth login`. Without "
            "network, load it once elsewhere and copy the cache (HF_HOME), or set data.path to a folder with "
            "train.csv, valid.csv and test.csv."
        ) from error
    if _HUB_SPLITS[split] not in table:
        raise DataError(f"{source}: no such split (splits found: {', '.join(table)})")
    table = table[_HUB_SPLITS[split]]
    columns = ("conv_id", "context", "prompt")
    check_columns(source, table.column_names, columns)
    rows, seen = [], set()
    cells = zip(*(table[column] for column in columns), strict=True)
    for number, (conversation, emotion, situation) in enumerate(cells, 1):
        if emotion in LABELS and conversation not in seen:
            seen.add(conversation)
            text = (situation or "").replace("_comma_", ",")
            rows.append(Row(f"row {number}", {"text": text, "label": emotion}))
    if not rows:
        raise DataError(f"{source}: no row whose context is one of {', '.join(LABELS)}")
    return source, rows

"""ED_easy_4: which of four emotions does a situation express?

Three sources give the same rows: the embedded corpus ("sample"), a local folder of CSV files, and
EmpatheticDialogues on the Hub. `read_split` turns any of them into clean rows, `build` writes prompts (and,
for the warm start, completions) around the rows. The situation stands last in the prompt: whatever shortens a
text can never touch the instruction.

Template rationales for the warm start.

A model that never writes `<reasoning>…</reasoning><answer>…</answer>` earns no reward, so GRPO has nothing to compare.
The warm start (task sft) shows it the format. Its rationales are NOT human reasoning and contain no knowledge about
emotions: one fixed sentence quotes the word of a text that went most often with its label in the rows at hand. What
reasoning is worth the model finds out later, by reward. The label itself is not named in the rationale (unless the text
says it): the answer has to follow from the word quoted.

One sentence and one word on purpose: every token that a tiny policy is unsure of adds noise to the policy gradient.
With three quoted words in one of four sentences, GRPO on ED_easy_4 improved several times more slowly.
"""

import re
from collections import Counter

from empathy_trl.data import on_hub
from empathy_trl.data.readers import read_table
from empathy_trl.data.rows import BadRow, Report, Row, Table, quote
from empathy_trl.data.sources import (
    check_split,
    check_task,
    hub_split,
    local_folder,
    situations,
    split_file,
    usable_rows,
)
from empathy_trl.errors import DataError
from empathy_trl.text import clean

# The position is the number of the label in the CSV files.
LABELS = ("sad", "joyful", "angry", "afraid")
TASKS = ("sft", "grpo", "ppo")
EVALUATION = "emotions"  # how completions are evaluated

PROMPT = (
    "Which emotion does this situation express: sad, joyful, angry or afraid?\n"
    "Reason briefly, then answer with one of these words, in this format:\n"
    "<reasoning>brief reasoning</reasoning><answer>emotion</answer>\n"
    "Situation: "
)

_LABEL_OF = {str(number): label for number, label in enumerate(LABELS)} | {label: label for label in LABELS}
_EXPECTED = "a folder with train.csv, valid.csv and test.csv, or a Hub id such as 'facebook/empathetic_dialogues'"


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
    check_task("ed4", task, TASKS)
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
    check_split(split)
    return usable_rows(config, split, _read_source(config.path, config.revision, split), _parse)


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


def _read_source(path: str, revision: str | None, split: str) -> Table:
    """Return the table (`text`, `label`) of one split, from whatever kind of source `path` names."""
    if not on_hub(path):
        return read_table(split_file(local_folder(path, "sample", _EXPECTED), split, (".csv",)), ("text", "label"))
    table = situations(*hub_split(path, revision, split))
    rows = [row for row in table.rows if row.cells["label"] in LABELS]
    if not rows:
        raise DataError(f"{table.source}: no row whose context is one of {', '.join(LABELS)}")
    return Table(table.source, table.columns, rows)


_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_LONGEST_WORD = 20
# Imaginary rows of the average label, so that a word seen once does not outrank one seen twenty times.
_PRIOR = 5
_SENTENCE = "The telling word here is {}."


def label_shares(rows: list[dict]) -> dict[tuple[str, str], float]:
    """Return `{(word, label): share}` in (0, 1]: of the rows with a word, the smoothed share that carry the label.

    Args:
        rows: dicts with `text` and `label`. A word counts once per row, in lower case.
    """
    labels = Counter(row["label"] for row in rows)
    pairs = Counter((word, row["label"]) for row in rows for word in set(_words(row["text"])))
    totals = Counter()
    for (word, _), count in pairs.items():
        totals[word] += count
    return {
        (word, label): (count + _PRIOR * labels[label] / len(rows)) / (totals[word] + _PRIOR)
        for (word, label), count in pairs.items()
    }


def rationale(text: str, label: str, shares: dict[tuple[str, str], float]) -> str:
    """Return the sentence that quotes the most telling word of `text`; the same arguments give the same sentence.

    A template, not human reasoning: see the module's docstring.

    Args:
        text: a clean, non-empty text. Without any letters its first 20 characters up to a space are quoted.
        label: the text's label.
        shares: the result of `label_shares`; a word missing in it counts as 0. Among equals the longest word is quoted.
    """
    words = _words(text) or [text.split()[0][:_LONGEST_WORD]]
    return _SENTENCE.format(min(words, key=lambda word: (-shares.get((word, label), 0.0), -len(word))))


def _words(text: str) -> list[str]:
    """Return the words of `text` in lower case: letters with inner apostrophes and hyphens, at most 20 characters."""
    return [word for word in _WORD.findall(text.lower()) if len(word) <= _LONGEST_WORD]

"""Texts with one label each: what the builders `emotions` and `intents` share."""

from collections.abc import Iterable

from empathy_trl.data import on_hub
from empathy_trl.data.formats import SUFFIXES, read_table
from empathy_trl.data.hub import hub_split, situations
from empathy_trl.data.normalize import normalize
from empathy_trl.data.sources import check_split, check_task, local_folder, split_file, usable_rows
from empathy_trl.data.tables import BadRow, Report, Row, Table, check_columns, did_you_mean, quote

TASKS = ("classify",)
_EXPECTED = "a folder with train, valid and test files, or a Hub id such as 'facebook/empathetic_dialogues'"


def build_labelled(config, split: str, task: str, name: str, labels: tuple[str, ...], others: Iterable[str]):
    """Return one split as a `datasets.Dataset`: `text`, and `labels` with one position in `labels`.

    Args:
        config, split: as for `read_labelled`.
        task: "classify".
        name: of the builder.
        labels: the labels of the builder.
        others: known labels that belong to another builder.
    """
    check_task(name, task, TASKS)
    rows, _ = read_labelled(config, split, name, labels, others)
    from datasets import Dataset

    return Dataset.from_dict(
        {"text": [row["text"] for row in rows], "labels": [[labels.index(row["label"])] for row in rows]}
    )


def read_labelled(
    config, split: str, name: str, labels: tuple[str, ...], others: Iterable[str]
) -> tuple[list[dict[str, str]], Report]:
    """Return `(rows, report)` of one split: dicts with `text` and `label`. Rows with one of `others` are skipped.

    A file has the columns `text` and `label`, or it is EmpatheticDialogues, one row per conversation with `situation` and
    `emotion`.
    """
    check_split(split)

    def parse(row: Row) -> dict[str, str] | BadRow | None:
        label = row.cells["label"].strip().lower()
        if label in others:
            return None
        if label not in labels:
            return BadRow(row.where, "unknown label", f"{quote(row.cells['label'])}{did_you_mean(label, labels)}")
        text = normalize(row.cells["text"], **config.normalize.model_dump())
        if not text.strip():
            return BadRow(row.where, "empty text", f"nothing is left of {quote(row.cells['text'])} after normalisation")
        return {"text": text, "label": label}

    return usable_rows(config, split, _read_source(config, split, name), parse)


def _read_source(config, split: str, name: str) -> Table:
    if on_hub(config.path):
        return situations(*hub_split(config.path, config.revision, split))
    table = read_table(split_file(local_folder(config.path, f"sample/{name}", _EXPECTED), split, SUFFIXES))
    if {"emotion", "situation"} <= set(table.columns):
        rows = [
            Row(row.where, {"text": row.cells["situation"], "label": row.cells["emotion"]})
            if isinstance(row, Row)
            else row
            for row in table.rows
        ]
        return Table(table.source, ["text", "label"], rows)
    check_columns(table.source, table.columns, ("text", "label"))
    return table

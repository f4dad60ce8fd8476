"""Figures of others, from `published.yaml`, which says what each field means."""

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from empathy_trl.errors import UserError

FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """One published result; the fields are those of `published.yaml`."""

    name: str
    kind: str
    data: str
    measured_on: str
    split: str
    n: int | None
    rows: str | None
    metrics: dict[str, float]
    metrics_version: int | None
    measured: bool
    note: str | None
    source: str
    url: str | None

    def why_apart(self, facts: dict) -> list[str]:
        """Return why it cannot stand in the table of evaluations with these facts (`groups.facts_of`); nothing if it can."""
        same_rows = self.rows is not None and self.rows == facts["rows"]
        given = [
            (self.measured, "expected by its source and not measured"),
            (self.metrics_version is not None, "defined in another way"),
            (
                self.metrics_version in (None, facts["metrics_version"]),
                f"defined as in metrics version {self.metrics_version}",
            ),
            (same_rows, f"other rows: {self.measured_on}, {self.split} split"),
        ]
        return [reason for holds, reason in given if not holds]

    @property
    def citation(self) -> str:
        """Source, and what a reader has to know."""
        return "; ".join([self.source] + [self.note] * bool(self.note))


def read_published(path: Path = FILE) -> list[Published]:
    """Read published figures. UserError names the entry of which a field is missing or unknown."""
    names = {field.name for field in fields(Published)}
    found = []
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), start=1):
        if not isinstance(entry, dict) or entry.keys() != names:
            wrong = ", ".join(sorted(map(str, names ^ set(entry)))) if isinstance(entry, dict) else "no mapping"
            raise UserError(f"{path}, entry {number}: missing or unknown: {wrong}; expected {', '.join(sorted(names))}")
        found.append(Published(**entry))
    return found

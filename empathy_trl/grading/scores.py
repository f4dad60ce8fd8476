"""The scores of a file of responses, on disk: whole lines at any moment, so that a run goes on where it was stopped.

* `<output>`: one JSON object per line, `{"index", "context", "response", "ratings"}`. `index` is the row of the input,
  from 0; context and response are as they stand there; `ratings` are aspect -> score on the judge's own scale.
* `<output>.judge.json`: who scored by what: model, scale, rubric, settings of the request.

Rows are appended as their answers come, and put into the order of the input when a run begins and when it ends.
"""

import fcntl
import json
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from empathy_trl.errors import UserError, show
from empathy_trl.grading.pairs import Pair
from empathy_trl.io import read_json, read_rows, write_rows, write_text
from empathy_trl.rewards.judge_answers import RUBRICS
from empathy_trl.rewards.llm_judge import LLMJudge

ANOTHER = "name another --output, or delete this one"


@contextmanager
def open_scores(path: Path, pairs: list[Pair], judge: LLMJudge):
    """Give a `ScoreFile` for as long as `with` lasts, in which no other run can write to it.

    Args:
        path: of the output; made when missing.
        pairs: the rows of the input.
        judge: who scores them.

    Raises:
        UserError: the file holds scores of other rows or by another judge, another run writes to it, or it cannot be
            written.
    """
    try:
        if path.is_dir():
            raise UserError(f"--output: {path} is a folder; expected a file, such as {path / 'scores.jsonl'}")
        lock = path.with_name(f".{path.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(lock, "a") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                scores = ScoreFile(path, pairs, judge)
                with open(path, "a", encoding="utf-8") as scores.file:
                    try:
                        yield scores
                    finally:
                        scores.write_in_order()
            finally:
                lock.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise UserError(f"--output: another run is writing to {path}; {ANOTHER}") from error
    except OSError as error:
        raise UserError(f"--output: cannot write {path}: {error.strerror}") from error


class ScoreFile:
    """The output of one run; see `open_scores`.

    Attributes:
        ratings: index -> aspect -> score, of all rows scored so far.
    """

    def __init__(self, path: Path, pairs: list[Pair], judge: LLMJudge):
        self.path, self.pairs = path, pairs
        self.settings_path = path.with_name(f"{path.name}.judge.json")
        self.settings, self.aspects = deciding_settings(judge), judge.aspects
        rows = read_rows(path, last_may_be_cut=True) if path.is_file() else []
        self._check_settings(bool(rows))
        self.ratings: dict[int, dict[str, float]] = self._checked(rows)
        self.write_in_order()
        self.file = None

    def add(self, index: int, ratings: dict[str, float]):
        """Append the scores of a row; they outlive this process when this returns."""
        self.ratings[index] = ratings
        self.file.write(json.dumps(self._row(index)) + "\n")
        self.file.flush()

    def write_in_order(self):
        """Write all rows anew, in the order of the input."""
        write_rows(self.path, [self._row(index) for index in sorted(self.ratings)])

    def _row(self, index: int) -> dict:
        pair = self.pairs[index]
        return {"index": index, "context": pair.context, "response": pair.response, "ratings": self.ratings[index]}

    def _check_settings(self, has_rows: bool):
        """Compare the settings with those of an earlier run, or write them down where there was none."""
        if not has_rows:
            write_text(self.settings_path, json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n")
            return
        if not self.settings_path.is_file():
            raise UserError(
                f"--output: {self.path} has rows, and no {self.settings_path.name} says who scored them; {ANOTHER}"
            )
        before = read_json(self.settings_path)
        if not isinstance(before, dict):
            raise UserError(f"--output: {self.settings_path} is {show(before)}; expected a judge's settings; {ANOTHER}")
        for name, value in self.settings.items():
            if before.get(name) != value:
                raise UserError(
                    f"--output: {self.path} was scored with {name} {show(before.get(name))}, this run has {show(value)}; "
                    f"{ANOTHER}"
                )

    def _checked(self, rows: list[dict]) -> dict[int, dict]:
        """Return index -> ratings of the rows of an earlier run; UserError if one is not of this input."""
        ratings = {}
        for number, row in enumerate(rows, start=1):
            where = f"--output: {self.path}, row {number}"
            if not isinstance(row, dict) or row.keys() != {"index", "context", "response", "ratings"}:
                raise UserError(f"{where}: expected index, context, response and ratings; {ANOTHER}")
            index = row["index"]
            if type(index) is not int or not 0 <= index < len(self.pairs):
                raise UserError(
                    f"{where}: its index is {index!r}, the input has the rows 0 to {len(self.pairs) - 1}; {ANOTHER}"
                )
            if index in ratings:
                raise UserError(f"{where}: the index {index} occurs twice; {ANOTHER}")
            pair = self.pairs[index]
            for name, value in (("context", pair.context), ("response", pair.response)):
                if row[name] != value:
                    raise UserError(
                        f"{where}: its {name} {show(row[name])} is not that of the input's row {index}, {show(value)}; "
                        f"{ANOTHER}"
                    )
            if not isinstance(row["ratings"], dict) or list(row["ratings"]) != self.aspects:
                raise UserError(f"{where}: expected ratings of {', '.join(self.aspects)}; {ANOTHER}")
            low, high = self.settings["scale"]
            for name, value in row["ratings"].items():
                # type: true and false are no numbers; the comparison: neither is NaN
                if type(value) not in (int, float) or not low <= value <= high:
                    raise UserError(
                        f"{where}: {name} is {show(value)}; expected a number from {low:g} to {high:g}; {ANOTHER}"
                    )
            ratings[index] = row["ratings"]
        return ratings


def deciding_settings(judge: LLMJudge) -> dict:
    """Return what decides a judge's scores, without where and how patiently it is asked; the rubric with its words."""
    settings = {name: value for name, value in asdict(judge).items() if name not in (*judge.operational, "reply_tags")}
    return settings | {"rubric": {name: (RUBRICS | judge.rubric)[name] for name in judge.aspects}}

"""Every reward, weight and total of given completions, without a trainer: for a notebook, a test or the command line.

    from empathy_trl import explain_rewards
    print(explain_rewards({"length": {"weight": 0.5}, "sentence_end": {}}, prompts, completions))

This prints a table; `recipes/explain.py` does the same for a recipe and a file.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from empathy_trl.data.sources import open_source
from empathy_trl.data.tables import BadRow, read_objects
from empathy_trl.errors import UserError
from empathy_trl.io import nearest_path, write_atomically
from empathy_trl.rewards import load_rewards
from empathy_trl.rewards.base import (
    Reward,
    check_parameters,
    checked_logs,
    checked_values,
    is_async,
    one_per_completion,
    weight_at,
)
from empathy_trl.tags import completion_text, user_text

# of the printed table; `rows` has everything
SHOWN_ROWS = 40
SHOWN_LETTERS = 60
# what `explain_rewards` and rewards are given under these names is something else
RESERVED = ("rewards", "prompts", "completions", "progress", "log_metric", "log_extra")


@dataclass
class Explanation:
    """What each completion earned, from which reward.

    Attributes:
        weights: reward -> its weight.
        rows: one per completion: `prompt` (what the user said last), `completion` (its text), one key per reward (None
            where it does not apply), `total`, and `<reward>/<column>` for what a reward gave to `log_extra`.
        means: reward -> mean over the rows to which it applies, None if it applies to no row; `total` likewise.
        metrics: what rewards gave to `log_metric`, averaged over those of one name as TRL does.
    """

    weights: dict[str, float]
    rows: list[dict]
    means: dict[str, float | None]
    metrics: dict[str, float]

    def __str__(self) -> str:
        names = [*self.weights, "total"]
        lines = [["", *names, "completion"], ["weight", *map(_number, self.weights.values()), "", ""]]
        for number, row in enumerate(self.rows[:SHOWN_ROWS], start=1):
            lines.append([str(number), *(_number(row[name]) for name in names), _shortened(row["completion"])])
        lines.append(["mean", *(_number(self.means[name]) for name in names), f"of {len(self.rows)} completions"])
        widths = [max(map(len, column)) for column in list(zip(*lines, strict=True))[:-1]]
        shown = [
            "  ".join([first.ljust(widths[0]), *map(str.rjust, numbers, widths[1:]), last]).rstrip()
            for first, *numbers, last in lines
        ]
        if len(self.rows) > SHOWN_ROWS:
            shown.insert(-1, f"... and {len(self.rows) - SHOWN_ROWS} more")
        return "\n".join([*shown, *(f"{name}: {_number(value)}" for name, value in self.metrics.items())])

    def to_pandas(self):
        """Return the rows as a `pandas.DataFrame`; None is NaN in it."""
        import pandas

        return pandas.DataFrame(self.rows)


def explain_rewards(rewards: dict | list, prompts, completions, progress: float = 0.0, **columns) -> Explanation:
    """Call rewards as a trainer does and return their values as a table.

    A total is the sum of weight times value over the rewards that apply to the completion, or None if no reward with
    a weight other than 0 applies. TRL compares these totals within a group, unless `multi_objective_aggregation` is
    `normalize_then_sum`.

    Args:
        rewards: as for `load_rewards`: name -> settings as in a recipe, such as `{"weight": 0.5, "n": 2}`, or a `Reward`
            or function, as in `stage.rewards`; or the list that `load_rewards` returns.
        prompts: one text or list of chat messages per completion.
        completions: the same.
        progress: training progress from 0 to 1, for weights that follow a schedule.
        **columns: of the data, one value per completion; also `completion_ids`, where a reward counts tokens.

    Raises:
        UserError: what is wrong with the rewards, as for a recipe; a reward needs the policy, or what it returns is not
            one finite number or None per completion; prompts, a column or `log_extra` have another length.
        Exception: whatever a reward raises.
    """
    if not 0 <= progress <= 1:
        raise UserError(f"progress: {progress} is not between 0 and 1")
    completions = list(completions)
    n = len(completions)
    prompts = one_per_completion("prompts", prompts, n)
    columns = {name: one_per_completion(f"column `{name}`", values, n) for name, values in columns.items()}

    arguments = {"prompts": prompts, "completions": completions, "completion_ids": None, **columns}
    functions = {reward.__name__: reward for reward in load_rewards(rewards)}
    _check_names(functions)
    for name, reward in functions.items():
        check_parameters(name, reward, [*arguments, "log_metric", "log_extra"])
        reward.load()
    metrics, extras = defaultdict(list), {}

    def call(name: str, reward: Reward):
        logs = {
            "log_metric": lambda metric, value: metrics[metric].append(value),
            # two rewards may log a column of the same name
            "log_extra": lambda column, values: extras.update({f"{name}/{column}": values}),
        }
        return reward(**arguments, **checked_logs(name, n, **logs))

    calls = {name: partial(call, name, reward) for name, reward in functions.items()}
    values = _call_all(calls, {name for name, reward in functions.items() if is_async(reward)})
    values = {name: checked_values(name, values[name], prompts, completions) for name in functions}
    weights = {name: weight_at(reward.weight, progress) for name, reward in functions.items()}
    return _table(weights, values, extras, prompts, completions, {name: fmean(each) for name, each in metrics.items()})


def _table(weights: dict, values: dict, extras: dict, prompts: list, completions: list, metrics: dict) -> Explanation:
    rows, counts = [], {name for name, weight in weights.items() if weight} or weights.keys()  # others are only watched
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        scores = {name: each[index] for name, each in values.items()}
        earned = [weights[name] * score for name, score in scores.items() if score is not None and name in counts]
        rows.append(
            {"prompt": user_text(prompt), "completion": completion_text(completion)}
            | scores
            | {"total": math.fsum(earned) if earned else None}
            | {name: each[index] for name, each in extras.items()}
        )
    means = {}
    for name in [*weights, "total"]:
        applies = [row[name] for row in rows if row[name] is not None]
        means[name] = fmean(applies) if applies else None
    return Explanation(weights, rows, means, metrics)


def _check_names(functions: dict[str, Reward]) -> None:
    """Refuse a reward that cannot stand in the table, before any is loaded."""
    for name, reward in functions.items():
        if name in ("prompt", "completion", "total"):
            raise UserError(f"rewards.{name}: the table has a column of this name; give the reward another one")
        if reward.needs_policy and reward.policy is None:
            raise UserError(
                f"rewards.{name}: needs a policy, the model in training, and cannot be shown without a trainer; leave "
                f"it out (on the command line: --rewards.{name} null, or --stages.<stage>.rewards.{name} null)"
            )


def _call_all(calls: dict[str, Callable], asynchronous: set[str]) -> dict:
    """Return name -> what the call returns; the asynchronous ones, which wait for something, run at the same time."""
    values = {name: call() for name, call in calls.items() if name not in asynchronous}
    waiting = {name: call() for name, call in calls.items() if name in asynchronous}
    return values | dict(zip(waiting, _run_together(waiting.values()), strict=True))


def _run_together(coroutines: Iterable[Coroutine]) -> list:
    async def gathered():
        return await asyncio.gather(*coroutines)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(gathered())
    with ThreadPoolExecutor(max_workers=1) as pool:  # a notebook has a loop that runs already; a thread has its own
        return pool.submit(asyncio.run, gathered()).result()


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _shortened(text: str) -> str:
    """Return a text on one line, cut, without the control characters that a terminal would obey."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= SHOWN_LETTERS else line[: SHOWN_LETTERS - 1] + "…"


def read_completions(path: Path) -> list[dict]:
    """Return the rows of a table (see `data.tables`), or of a folder with one, at least one row, all with the same keys.

    Raises:
        UserError: the file cannot be read; or names the line that is no row with `prompt`, `completion` and the keys of
            the first row.
    """
    if not path.exists():
        raise UserError(f"--completions: {path}: no such file or folder{nearest_path(str(path))}")
    table = open_source(path, nested=True).only() if path.is_dir() else None
    if table is None and path.is_dir():
        raise UserError(f"--completions: {path}: expected a file, or a folder with one table")
    rows = []
    for row in table.rows if table else read_objects(path):
        where = f"{path}, {row.where}"
        if isinstance(row, BadRow):
            raise UserError(f"{where}: {row.reason}: {row.detail}")
        _check_row(where, row.cells, rows[0] if rows else row.cells)
        rows.append(row.cells)
    if not rows:
        raise UserError(f"--completions: {path} has no rows")
    return rows


def _check_row(where: str, row: dict, first: dict) -> None:
    for key in ("prompt", "completion"):
        if key not in row:
            raise UserError(f"{where}: has no `{key}` (keys: {', '.join(row) or 'none'})")
        if not isinstance(row[key], str) and not _are_messages(row[key]):
            raise UserError(f"{where}: `{key}` is neither a text nor a list of messages with role and content")
    for key in row:
        if key in RESERVED:
            raise UserError(f"{where}: a column cannot be called `{key}`")
    if differing := sorted(row.keys() ^ first.keys()):
        which = "has no" if differing[0] in first else "has a"
        raise UserError(f"{where}: {which} `{differing[0]}`, unlike the first row; null says that there is no value")


def _are_messages(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and {"role", "content"} <= each.keys() for each in value
    )


def write_csv(path: Path, table: Explanation) -> None:
    """Write all rows of a table; nothing stands where a reward does not apply."""
    frame = table.to_pandas()
    try:
        write_atomically(path, lambda temporary: frame.to_csv(temporary, index=False, errors="replace"))
    except OSError as error:
        raise UserError(f"--csv: cannot write {path}: {error.strerror}") from error

"""Evaluations for the tests of leaderboards."""

import copy

from empathy_trl.evaluation import base as artefacts
from empathy_trl.hub.leaderboard.entries import Found, make_entry

ABOUT = {
    "recipe": "r",
    "stage": "s",
    "kind": "emotions",
    "data": {"name": "ed4", "source": "sample", "revision": None, "split": "test", "n": 200, "rows": "aa",
             "decoding": "greedy decoding"},
    "baselines": {},
    "seed": 0,
    "metrics_version": 1,
}  # fmt: skip


def figure(value, width=0.1, n=200):
    return {"value": value, "low": value - width / 2, "high": value + width / 2, "n": n}


def evaluation(model="a", value=0.5, width=0.1, data=None, **changes):
    """What a file or a card may hold: accuracy `value` in the middle of its interval."""
    made = copy.deepcopy(ABOUT) | {"model": model, "metrics": {"accuracy": figure(value, width)}} | changes
    return made | {"data": made["data"] | (data or {})}


def entry(*arguments, **changes):
    """An entry without predictions, as from a card."""
    made = evaluation(*arguments, **changes)
    return make_entry(made, f"hub/{made['model']}")


def found(*entries):
    return Found(list(entries))


def saved(folder, made=None, **changes):
    """Write `eval_test.json` alone; returns the folder."""
    artefacts.write_eval(folder, "test", made or evaluation(folder.name, **changes))
    return folder


def with_predictions(folder, write, /, *arguments, **changes):
    """Let a function of tests/evaluation write figures and predictions; returns the entry."""
    write(folder, *arguments)
    made = artefacts.read_eval(folder, "test")
    data = ABOUT["data"] | made["data"] | changes.pop("data", {})
    made = {"metrics_version": 1, "seed": 0, "baselines": {}} | made | {"data": data} | changes
    artefacts.write_eval(folder, "test", made)
    return make_entry(made, str(folder / "eval_test.json"), folder)

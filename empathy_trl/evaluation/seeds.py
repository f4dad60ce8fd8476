"""Several seeds of one recipe: every figure with its spread, the changes from stage to stage, and the report of both.

`write_seeds` reads nothing but the folders of the seeds, `seed_1`, `seed_2` and so on, each an ordinary run, and writes beside them:

* `seeds.json`: `{"recipe", "seeds", "split", "stages", "groups", "changes", "train_seconds"}`. `stages` has stage -> `{"kind", "main_metric",
  "data", "baselines", "metrics": {name: figure}}`, in the order of the recipe; `sft/untrained` is the model before the training
  of `sft`. A figure is `{"value", "sd", "low", "high", "n", "values", "method", "note"}`: the mean over the seeds, the standard
  deviation over the seeds, a 95 % interval over seeds and rows, the number of rows, and seed -> value. `groups` lists the stages that
  can be compared. `changes` has `{"from", "to", "metrics"}` for every two stages that follow each other in a group, and for the first
  and the last one; the figures are those of `compare.compare_results`. What there is not is null.
* `seeds.md` and `seeds.png`: the same for a reader.
"""

import json
from pathlib import Path

import numpy as np

from empathy_trl.cli import in_words
from empathy_trl.errors import UserError
from empathy_trl.evaluation import evaluator
from empathy_trl.evaluation.base import NAMES, describe_cuts, markdown
from empathy_trl.evaluation.compare import (
    NOT_IN_ROWS,
    SEEDS_FILE,
    SEEDS_METHOD,
    Results,
    by_seed,
    check_all_rows,
    compare_results,
    corpus_statistics,
    deviation,
    p_words,
    read_seeds,
    resample,
    row_mean,
    row_means,
    seed_cells,
    seed_folder,
)
from empathy_trl.evaluation.metrics.bootstrap import over_seeds, paired_statistics, with_interval
from empathy_trl.evaluation.plots import draw_seeds
from empathy_trl.evaluation.report import (
    EvaluatedStage,
    comparable,
    curve,
    is_established,
    neighbours,
    read_stages,
    run_seconds,
)
from empathy_trl.io import user_path, write_text
from empathy_trl.text import in_markdown

FILES = {"report": "seeds.md", "plot": "seeds.png", "table": SEEDS_FILE}


def write_seeds(run_dir: str | Path, seeds: list[int], split: str = "test") -> dict:
    """Write `seeds.json`, `seeds.md` and `seeds.png` for a run with several seeds.

    Args:
        run_dir: folder with `seed_1` and so on, each the folder of a run with all stages evaluated.
        seeds: which of them.
        split: train, valid or test.

    Returns:
        The content of `seeds.json`.

    Raises:
        UserError: an artefact is missing or broken, or the seeds have other settings, stages or rows; names the files.
    """
    run_dir = user_path(run_dir)
    folders = {seed: seed_folder(run_dir, seed) for seed in seeds}
    runs = {seed: read_stages(folder, split) for seed, folder in folders.items()}
    names = {seed: [stage_name(stage, folders[seed]) for stage in stages] for seed, stages in runs.items()}
    first = seeds[0]
    for seed, each in names.items():
        if each != names[first]:
            raise UserError(
                f"{folders[first]} has evaluations of {', '.join(names[first])}, {folders[seed]} of {', '.join(each)}; expected the same"
            )
    results = {name: read_seeds(folders, Path(name), split) for name in names[first]}
    for each in results.values():
        check_all_rows([*each.values()])
    groups = [[stage_name(stage, folders[first]) for stage in group] for group in comparable(runs[first])]
    content = {
        "recipe": runs[first][-1].evaluation["recipe"],
        "seeds": seeds,
        "split": split,
        "stages": {name: _stage(each) for name, each in results.items()},
        "groups": groups,
        "changes": [change for group in groups for change in _changes(group, results)],
        "train_seconds": {seed: run_seconds(stages) for seed, stages in runs.items()},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    content = json.loads(text)  # seeds as keys are texts now, as for any other reader
    panels = [
        {"name": _title(content, group), "figures": {name: main_figure(content, name) for name in group}}
        for group in groups
    ]
    draw_seeds(run_dir / FILES["plot"], f"{content['recipe']}, {seeds_in_words(content)}", panels, _curves(runs))
    titles = {
        name: stage.evaluator.column_titles(stage.evaluation) for name, stage in zip(results, runs[first], strict=True)
    }
    write_text(run_dir / FILES["report"], _page(content, titles, run_dir))
    write_text(run_dir / SEEDS_FILE, text)  # last: where it is, the others are
    return content


def stage_name(stage: EvaluatedStage, run: Path) -> str:
    """Return the name of an evaluated stage, or of the model before its training: sft, or sft/untrained."""
    return stage.folder.relative_to(run).as_posix()


def _stage(results: Results) -> dict:
    first = next(iter(results.values())).evaluation
    main = evaluator(first["kind"]).main_metric
    about = {"kind": first["kind"], "main_metric": main, "data": first["data"]}
    return about | {"baselines": pooled_baselines(results), "metrics": pooled(results)}


def pooled_baselines(results: Results) -> dict[str, dict]:
    """Return baseline -> metric -> figure: that of every seed if they are equal, else their mean, without an interval.

    They differ if each seed has judges of its own, such as a reward model.
    """
    every = [result.evaluation.get("baselines") or {} for result in results.values()]
    found = {}
    for name, metrics in every[0].items():
        for metric, figure in metrics.items():
            figures = [each.get(name, {}).get(metric) for each in every]
            if None in figures:
                continue
            if any(each != figure for each in figures):
                mean = sum(each["value"] for each in figures) / len(figures)
                figure = {"value": mean, "low": None, "high": None, "n": figure.get("n")}
            found.setdefault(name, {})[metric] = figure
    return found


def pooled(results: Results) -> dict[str, dict]:
    """Return metric -> figure (see the module) of the results of several seeds, which have the same rows."""
    found = {}
    for method, (means, functions) in corpus_statistics(results).items():
        n = len(next(iter(results.values())).rows)
        if means:
            tests = resample(method, over_seeds(functions), n, functions)
            found |= {name: test | {"method": method} for name, test in zip(means, tests, strict=True)}
    for name, values in row_means(results).items():
        there = ~np.isnan(values).any(axis=0)
        if there.any():
            test = paired_statistics(over_seeds([row_mean(each) for each in values[:, there]]), int(there.sum()))[0]
            fewer = there.sum() < (~np.isnan(values)).sum(axis=1).max()
            note = f"interval of the {there.sum()} rows that have a value for every seed" if fewer else None
            found[name] = test | {"method": "bootstrap", "note": note}
    names = dict.fromkeys(name for result in results.values() for name in result.evaluation["metrics"])
    return {name: _figure(by_seed(results, name), found.get(name)) for name in names}


def _figure(values: dict[int | None, float | None], test: dict | None) -> dict:
    there = [value for value in values.values() if value is not None]
    note = None if test else NOT_IN_ROWS
    if len(there) < len(values):
        test, note = None, "not every seed has it"
    mean = sum(there) / len(there) if len(there) == len(values) else None
    figure = {"value": mean, "sd": None if mean is None else deviation(there)}
    figure |= {key: test[key] if test else None for key in ("low", "high", "n", "method")}
    return figure | {"values": values, "note": test.get("note") if test else note}


def _changes(group: list[str], results: dict[str, Results]) -> list[dict]:
    """Return the changes from each stage of a group to the next one, and from the first to the last."""
    return [
        {"from": a, "to": b, "metrics": compare_results(results[a], results[b])["metrics"]}
        for a, b in neighbours(group)
    ]


def summary(run_dir: str | Path, content: dict) -> str:
    """Return at most ten lines about a run with several seeds.

    Args:
        run_dir: its folder.
        content: what `write_seeds` returns.
    """
    run_dir, groups = user_path(run_dir), content["groups"]
    lines = [
        f"{content['recipe']}, {seeds_in_words(content)}: trained in {in_words(sum(content['train_seconds'].values()))}"
    ]
    for group in groups[-2:]:
        figures = ", ".join(f"{name} {with_interval(main_figure(content, name))}" for name in group)
        lines.append(f"{_title(content, group)}: {figures}")
        changes = [_change_words(content, change) for change in _changes_of(content, group)]
        lines += changes[-1:]  # from the first stage to the last
    lines.append("±: standard deviation over the seeds; the 95 % intervals hold for a new seed and new rows")
    lines += [f"{name + ':':<8}{run_dir / FILES[name]}" for name in ("report", "plot")]
    first, last = groups[-1][0], groups[-1][-1]
    return "\n".join(
        [*lines, *([f"next:   empathy-trl compare {run_dir / first} {run_dir / last}"] if first != last else [])]
    )


def seeds_in_words(content: dict) -> str:
    """Return which seeds `seeds.json` is of."""
    return f"seed{'s' * (len(content['seeds']) > 1)} {', '.join(map(str, content['seeds']))}"


def _title(content: dict, group: list[str]) -> str:
    """Return what the main figure of a group is called, and of how many rows it is."""
    stage = content["stages"][group[-1]]
    return f"{content['split']} {evaluator(stage['kind']).main_metric_title}, n = {stage['data']['n']}"


def main_figure(content: dict, stage: str) -> dict:
    """Return the main figure of a stage in `seeds.json`."""
    about = content["stages"][stage]
    return about["metrics"][about["main_metric"]]


def _changes_of(content: dict, group: list[str]) -> list[dict]:
    """Return the changes between stages of a group, without those whose main figure cannot be compared."""
    main = content["stages"][group[-1]]["main_metric"]
    changes = [each for each in content["changes"] if each["to"] in group]
    return [each for each in changes if each["metrics"].get(main, {}).get("change") is not None]


def _change_words(content: dict, change: dict) -> str:
    """Return the change of the main figure between two stages, with its interval and verdict."""
    figure = change["metrics"][content["stages"][change["to"]]["main_metric"]]
    words = f"{change['from']} to {change['to']}: {figure['change']:+.3f}"
    if figure["p"] is not None:
        p = p_words(figure["p"])
        words += f" [{figure['low']:+.3f}, {figure['high']:+.3f}], p {p if '<' in p else f'= {p}'}"
        words += f", {'' if is_established(figure) else 'not '}established"
    return f"{words}; by seed {seed_cells(figure)[0]}" if figure.get("by_seed") else words


def _curves(runs: dict[int, list[EvaluatedStage]]) -> dict[str, dict[int, list]]:
    """Return title -> seed -> points of the figure on `valid` while training or, without one, of the reward, per stage that has it."""
    found = {}
    for stages in zip(*runs.values(), strict=True):
        best = stages[0].best
        key, words = (
            (f"eval_{best['figure']}", f"{best['figure'].replace('_', ' ')} on valid") if best else ("reward", "reward")
        )
        curves = {seed: curve(stage, key) for seed, stage in zip(runs, stages, strict=True)}
        if any(curves.values()):
            found[f"{stages[0].name}: {words}"] = curves
    return found


def _page(content: dict, titles: dict[str, dict[str, str]], run_dir: Path) -> str:
    """Return the content of `seeds.md`; `titles` has stage -> metric -> title of the figures that a reader is shown."""
    parts = [f"# {in_markdown(content['recipe'])}, {seeds_in_words(content)}"]
    for group in content["groups"]:
        figures = ", ".join(f"{in_markdown(name)} {with_interval(main_figure(content, name))}" for name in group)
        parts.append(f"**{_title(content, group)}: {figures}**")
        parts += ["\n".join(f"- {_change_words(content, change)}" for change in _changes_of(content, group))]
    parts += [HOW_TO_READ, f"![Figures and curves of every seed]({FILES['plot']})", "## Figures of every seed"]
    rows = [["stage", "figure", *(f"seed {seed}" for seed in content["seeds"]), "mean", "sd", "95 % interval", "n"]]
    for name, columns in titles.items():
        metrics = content["stages"][name]["metrics"]
        rows += [
            [in_markdown(name), title, *_figure_cells(metrics[key])] for key, title in columns.items() if key in metrics
        ]
    parts.append(markdown(rows))
    parts += [_data(content, group) for group in content["groups"]]
    if content["changes"]:
        parts += ["## Changes from stage to stage", markdown(_change_rows(content, titles)), SEEDS_METHOD]
    links = [f"- seed {seed}: [report](seed_{seed}/report.md), trained in {in_words(content['train_seconds'][str(seed)])}"
             for seed in content["seeds"]]  # fmt: skip
    parts += ["## Runs", "\n".join(links), f"`{SEEDS_FILE}` has all figures of every stage."]
    return "\n\n".join(part for part in parts if part) + "\n"


HOW_TO_READ = (
    "Each figure is the mean over the seeds ± the standard deviation of one seed. In brackets: the 95 % interval of the mean, for which "
    "both the rows and the seeds were drawn again, so it holds for a new seed and a new row."
)


def _figure_cells(figure: dict) -> list:
    """Return the value of every seed, mean, standard deviation, interval and n; "-" for what there is not."""
    numbers = [*figure["values"].values(), figure["value"], figure["sd"]]
    interval = "-" if figure["low"] is None else f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    return [*("-" if number is None else f"{number:.3f}" for number in numbers), interval, figure["n"] or "-"]


def _data(content: dict, group: list[str]) -> str:
    """Return what a group was evaluated on, and its baselines."""
    about = content["stages"][group[-1]]
    data = about["data"]
    listed = baselines_in_words(about)
    text = (
        f"Split {data['split']} of {in_markdown(data['source'])}{describe_cuts(data)}, {evaluator(about['kind']).note}"
    )
    return f"{text} For comparison: {listed}." if listed else text


def baselines_in_words(about: dict) -> str:
    """Return the main figure of every baseline of a stage, an entry of `stages`."""
    main = about["main_metric"]
    values = {NAMES.get(key, key): row[main]["value"] for key, row in about["baselines"].items() if main in row}
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def _change_rows(content: dict, titles: dict[str, dict[str, str]]) -> list[list]:
    rows = [["from", "to", "figure", "change", "95 % interval", "p", "by seed", "sd"]]
    for change in content["changes"]:
        for key, title in titles[change["to"]].items():
            figure = change["metrics"].get(key)
            if figure is None or figure["change"] is None:
                continue
            rows.append([
                in_markdown(change["from"]), in_markdown(change["to"]), title, f"{figure['change']:+.3f}",
                "-" if figure["low"] is None else f"[{figure['low']:+.3f}, {figure['high']:+.3f}]",
                "-" if figure["p"] is None else p_words(figure["p"]),
                *(seed_cells(figure) if "by_seed" in figure else ["-", "-"]),
            ])  # fmt: skip
    return rows

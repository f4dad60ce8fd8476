"""Plots as PNG: training curves, results of an evaluation, reports and comparisons."""

from pathlib import Path

import numpy as np

from empathy_trl.io import write_atomically

BLUE, RED = "#4c78a8", "#d1495b"
CURVE_COLOURS = (BLUE, "#f28e2b", "#59a14f", "#b07aa1")
# what shows whether PPO is well: key of metrics.jsonl -> title of its plot
CRITIC_CURVES = {
    "explained_variance": "explained variance of the returns",
    "value_loss": "value loss",
    "kl": "KL to the reference, nats per token",
    "clip_ratio/region_mean": "share of clipped ratios",
    "completions/mean_length": "tokens per completion",
    "distinct_2": "distinct-2 of the rollout",
}


def pyplot():
    """Import matplotlib's pyplot for files: the Agg backend needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # names of models, rewards and labels may hold "$"
    from matplotlib import pyplot

    return pyplot


def save(figure, path: Path, dpi: int = 150) -> Path:
    """Write a figure as PNG and close it."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi))
    pyplot().close(figure)
    return path


def smoothing_width(values) -> int:
    """Return how many values `smooth` averages: a tenth of them, at least one."""
    return max(1, len(values) // 10)


def smooth(values) -> list[float]:
    """Return the mean over a trailing window of `smoothing_width(values)` values."""
    width = smoothing_width(values)
    windows = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def draw_training(rows: list[dict], folder: Path, held_out: tuple[str, str] | None = None) -> None:
    """Draw the logged rows of a training: `reward_curve.png` and, if there is a critic, `critic_curves.png`.

    Args:
        rows: of `metrics.jsonl`.
        folder: of the stage.
        held_out: key of the figure that was measured on `valid` while training, and what a reader calls it.
    """
    draw_rewards(rows, folder / "reward_curve.png", folder.name, held_out)
    if any("value_loss" in row for row in rows):
        draw_critic(rows, folder / "critic_curves.png", folder.name)


def draw_rewards(rows: list[dict], path: Path, title: str, held_out: tuple[str, str] | None = None) -> None:
    """Draw the reward (per function and total) over the steps, or the loss if there is no reward; below it a held-out figure.

    Args and shapes: as `draw_training`. Without rows that have the held-out figure with its interval, there is no second panel.
    """
    names = [name for name in sorted({key for row in rows for key in row}) if _is_reward(name)] or ["loss"]
    measured = [row for row in rows if held_out is not None and f"{held_out[0]}_low" in row]
    shape = (
        {"nrows": 2, "figsize": (7, 6), "height_ratios": (3, 2), "sharex": True} if measured else {"figsize": (7, 4)}
    )
    figure, panels = pyplot().subplots(**shape, squeeze=False, layout="constrained")
    axes = panels[0, 0]
    for name in names:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        if points:
            label = "total (weighted)" if name == "reward" else name.removeprefix("rewards/").removesuffix("/mean")
            steps, values = zip(*points, strict=True)
            axes.plot(steps, smooth(values), label=label, linewidth=2.5 if name == "reward" else 1.5)
    axes.set(ylabel="loss" if names == ["loss"] else "mean reward (smoothed)", title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    if measured:
        _draw_held_out(panels[1, 0], measured, *held_out)
    panels[-1, 0].set_xlabel("optimizer step")
    save(figure, path, dpi=120)


def _draw_held_out(axes, rows: list[dict], key: str, name: str) -> None:
    """Draw a figure measured on `valid` while training, with its intervals."""
    steps, values, low, high = zip(
        *((row["step"], row[key], row[f"{key}_low"], row[f"{key}_high"]) for row in rows), strict=True
    )
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(steps, values, color=BLUE, marker="o", markersize=4)
    axes.set(ylabel=name, title=f"n = {rows[-1]['eval_n']}, 95 % intervals")
    axes.grid(alpha=0.3)


def draw_critic(rows: list[dict], path: Path, title: str) -> None:
    """Draw each of `CRITIC_CURVES` over the steps, in one picture."""
    figure, grid = pyplot().subplots(2, 3, figsize=(11, 6), layout="constrained", sharex=True)
    for axes, (name, words) in zip(grid.flat, CRITIC_CURVES.items(), strict=True):
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        if points:
            axes.plot(*zip(*points, strict=True))
        axes.set_title(words, fontsize=10)
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("optimizer step")
    figure.suptitle(title)
    save(figure, path, dpi=120)


def _is_reward(name: str) -> bool:
    return name == "reward" or (name.startswith("rewards/") and name.endswith("/mean"))


def draw_confusion(path: Path, confusion: dict, title: str) -> Path:
    """Draw a confusion matrix as PNG: rows gold, columns predicted, coloured by the share of the row.

    Args:
        path: of the PNG.
        confusion: `{"rows", "columns", "counts"}` as from `score_predictions`; the last column is the invalid
            answers.
        title: one or two lines.
    """
    counts = np.array(confusion["counts"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    height, width = counts.shape
    figure, axes = pyplot().subplots(figsize=(2.2 + 0.9 * width, 1.8 + 0.8 * height), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(height, width):
        colour = "white" if shares[row, column] > 0.55 else "black"
        label = f"{counts[row, column]}\n{shares[row, column]:.0%}"
        axes.text(column, row, label, ha="center", va="center", color=colour, fontsize=11)
    axes.set_xticks(range(width), confusion["columns"])
    axes.set_yticks(range(height), confusion["rows"])
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold")
    figure.suptitle(title, fontsize=11)  # over the whole width: model names are long
    axes.tick_params(length=0)
    axes.axvline(width - 1.5, color="grey", linewidth=1)  # invalid answers stand apart from the emotions
    figure.colorbar(image, ax=axes, label="share of the gold label", format=lambda share, _: f"{share:.0%}")
    return save(figure, path)


def draw_ratings(path: Path, ratings: list[str], rows: list[dict], title: str) -> Path:
    """Draw predicted over gold ratings, one panel each; on the diagonal both are equal.

    Args:
        path: of the PNG.
        ratings: their names.
        rows: have `label` and `prediction`, both rating -> number.
        title: one or two lines.
    """
    size = (4 * len(ratings), 4.4)
    figure, axes = pyplot().subplots(1, len(ratings), figsize=size, layout="constrained", squeeze=False)
    for panel, name in zip(axes[0], ratings, strict=True):
        gold, predicted = ([row[side][name] for row in rows] for side in ("label", "prediction"))
        panel.scatter(gold, predicted, s=14, alpha=0.4, color=BLUE, linewidths=0)
        ends = [min(gold + predicted), max(gold + predicted)]
        panel.plot(ends, ends, color="grey", linewidth=1)
        panel.set(xlabel="gold", ylabel="predicted", title=name)
        panel.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def draw_report(path: Path, *, title: str, panels: list[dict], rewards: dict) -> Path:
    """Draw the main metric per stage with intervals and baselines; beside it, where there is one, the reward.

    Args:
        path: of the PNG.
        title: above all panels.
        panels: one per kind of evaluation: `{"name", "figures", "baselines"}`; the metric's name, stage name ->
            `{"value", "low", "high", "n"}`, and baseline -> value.
        rewards: stage name -> points (step, mean reward), at least one point each.
    """
    width = 5.5 + max(0, max(len(panel["figures"]) for panel in panels) - 3)
    count = len(panels) + bool(rewards)
    figure, axes = pyplot().subplots(1, count, figsize=(count * width, 4.4), layout="constrained", squeeze=False)
    for place, panel in zip(axes[0], panels, strict=False):
        _draw_figures(place, **panel)
    if rewards:
        _draw_rewards(axes[0, -1], rewards)
    figure.suptitle(title, fontsize=13)
    return save(figure, path)


def draw_changes(path: Path, metrics: dict, title: str) -> Path:
    """Draw the relative change of every metric with its interval, one line each; dark where the interval excludes 0.

    Args:
        path: of the PNG.
        metrics: name -> `{"a", "change", "relative", "low", "high"}` as from `compare`; those without an interval or a
            relative change are left out. Beyond 100 % the axis is logarithmic.
        title: one or two lines.
    """
    shown = {name: each for name, each in metrics.items() if each["relative"] is not None and each["low"] is not None}
    figure, axes = pyplot().subplots(figsize=(8, 1.8 + 0.3 * max(1, len(shown))), layout="constrained")
    for place, each in enumerate(shown.values()):
        middle, low, high = (100 * each[key] / abs(each["a"]) for key in ("change", "low", "high"))
        colour = BLUE if low > 0 or high < 0 else "#999999"
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(middle, place, "o", color=colour, markersize=6)
    axes.axvline(0, color=RED, linewidth=1)
    axes.set_xscale("symlog", linthresh=100)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:+g} %")
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)  # the first metric on top
    axes.set_xlabel("change from A to B, relative to A, 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def draw_seeds(path: Path, title: str, panels: list[dict], curves: dict[str, dict[int, list]]) -> Path:
    """Draw the main figure of every seed, stage by stage, and beside it the curves of the trainings, one line per seed.

    Args:
        path: of the PNG.
        title: above all panels.
        panels: one per group of stages that can be compared: `{"name", "figures"}`; the figure's name, and stage name ->
            `{"value", "low", "high", "values"}`, the mean over seeds, the ends of its interval or None, and seed -> value.
        curves: what is drawn -> seed -> points (step, value).
    """
    count = len(panels) + len(curves)
    figure, axes = pyplot().subplots(1, count, figsize=(5 * count, 4.4), layout="constrained", squeeze=False)
    for place, panel in zip(axes[0], panels, strict=False):
        for position, each in enumerate(panel["figures"].values()):
            if each["low"] is not None:
                place.plot([position] * 2, [each["low"], each["high"]], color="#333333", linewidth=2)
            place.plot(position, each["value"], "_", color="#333333", markersize=24)
        for number, seed in enumerate(next(iter(panel["figures"].values()))["values"]):
            values = [each["values"][seed] for each in panel["figures"].values()]
            place.plot(
                range(len(values)), values, "o-", color=f"C{number}", alpha=0.7, linewidth=1, label=f"seed {seed}"
            )
        place.set_xticks(range(len(panel["figures"])), list(panel["figures"]))
        place.set_xlim(-0.6, len(panel["figures"]) - 0.4)
        place.set_title(f"{panel['name']}, mean with 95 % interval", fontsize=10)
    for place, (name, of_seeds) in zip(axes[0, len(panels) :], curves.items(), strict=True):
        for number, (seed, points) in enumerate(of_seeds.items()):
            steps, values = zip(*points, strict=True) if points else ((), ())
            place.plot(steps, smooth(values), color=f"C{number}", label=f"seed {seed}")
        place.set(title=name, xlabel="optimizer step")
    for place in axes[0]:
        place.grid(alpha=0.3)
        place.legend(fontsize=9)
    figure.suptitle(title)
    return save(figure, path)


def _draw_figures(axes, name: str, figures: dict, baselines: dict) -> None:
    stages, figures = list(figures), list(figures.values())
    values = [figure["value"] for figure in figures]
    # rounding may put an end of the interval beyond the value by 1e-16, which matplotlib refuses
    below = [max(0, figure["value"] - figure["low"]) for figure in figures]
    above = [max(0, figure["high"] - figure["value"]) for figure in figures]
    axes.bar(range(len(figures)), values, yerr=[below, above], width=0.5, capsize=6, color=BLUE, ecolor="#333333")
    for position, value in enumerate(values):
        axes.text(position, 0.02, f"{value:.3f}", ha="center", va="bottom", color="white", fontweight="bold")
    for (baseline, value), style in zip(baselines.items(), (":", "--", "-."), strict=False):
        axes.axhline(value, color=RED, linestyle=style, linewidth=1.5, label=f"{baseline} {value:.3f}")
    axes.set_xticks(range(len(figures)), stages)
    axes.set_xlim(-0.6, len(figures) - 0.4)
    lowest = min(0, *(figure["low"] for figure in figures))
    axes.set_ylim(1.1 * lowest, 1.2 * max(1, *(figure["high"] for figure in figures)))  # space for the legend
    axes.set_ylabel(name)
    axes.set_title(f"{name[0].upper()}{name[1:]}, n = {figures[-1]['n']}, 95 % intervals", fontsize=11)
    if baselines:
        axes.legend(loc="upper left", fontsize=9)


def _draw_rewards(axes, rewards: dict) -> None:
    for (name, points), colour in zip(rewards.items(), CURVE_COLOURS, strict=False):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1, marker=".")
        label = f"{name}, running mean of {smoothing_width(values)}"
        axes.plot(steps, smooth(values), color=colour, linewidth=2, label=label)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("mean reward")
    axes.set_title("Reward during training", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=9)

"""The page of a comparison: one table, footnotes for what is missing, and how to read it."""

from empathy_trl.evaluation.tables import markdown

METHOD = (
    "Brackets: 95 % interval; p: two-sided. Both draw the rows again for A and B at once (paired bootstrap, 2000 draws; for "
    "counts of different n-grams the jackknife, because a bootstrap draws rows twice). With few rows, p is too small."
)


def page(content: dict) -> str:
    """Return the content of `compare.md`, from that of `compare.json` (see `compare.compare`)."""
    metrics = content["metrics"]
    notes = list(dict.fromkeys(figure["note"] for figure in metrics.values() if figure["note"]))
    rows = [["metric", "A", "B", "change, B - A", "relative", "p", "n"]]
    for name, figure in metrics.items():
        mark = f" ({notes.index(figure['note']) + 1})" if figure["note"] else ""
        rows.append([name + mark, *_cells(figure)])
    data, tested = content["data"], sum(figure["p"] is not None for figure in metrics.values())
    parts = [
        f"# Comparison on {data['split']} of {data['source']}",
        "\n".join(f"- {side.upper()}: {_about(content[side])}" for side in ("a", "b")),
        markdown(rows),
        *(f"({number}) {note}" for number, note in enumerate(notes, start=1)),
        METHOD,
        _several(tested),
        "![Relative changes with their intervals](compare.png)",
    ]
    return "\n\n".join(parts) + "\n"


def _cells(figure: dict) -> list[str]:
    """Return what the table says of one metric behind its name; "-" for what there is not."""
    interval = "" if figure["low"] is None else f" [{figure['low']:+.3f}, {figure['high']:+.3f}]"
    forms = {
        "a": lambda value: f"{value:.3f}",
        "b": lambda value: f"{value:.3f}",
        "change": lambda value: f"{value:+.3f}{interval}",
        "relative": lambda value: f"{value:+.1%}",
        "p": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
        "n": str,
    }
    return ["-" if figure[key] is None else form(figure[key]) for key, form in forms.items()]


def _about(side: dict) -> str:
    return f"{side['model']} ({side['recipe']} / {side['stage']}), {side['folder']}"


def _several(tested: int) -> str:
    """Return what to think of many p-values at once."""
    return (
        f"{tested} metrics were compared, and p is not corrected for that: if nothing had changed, about {0.05 * tested:.1f} of "
        f"them would still show p < 0.05. A careful reader asks for p < {0.05 / max(1, tested):.2g} (Bonferroni)."
    )

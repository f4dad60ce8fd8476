"""A card's tables of results: every figure with its interval, the model beside its baselines."""

from empathy_trl.evaluation.baselines import NAMES
from empathy_trl.evaluation.intervals import with_interval
from empathy_trl.evaluation.tables import markdown
from empathy_trl.model_card.escape import code, text
from empathy_trl.model_card.results import source_name
from empathy_trl.model_card.stage_files import StageFiles
from empathy_trl.recipe.schema import SAMPLE


def scores(files: StageFiles) -> str:
    """Return a table for each split that was evaluated, and what one has to know to read it."""
    parts = [_table(evaluation) for evaluation in files.evaluations.values()]
    parts += [
        f"{code(name)} in the folder of this model cannot be read; its figures are left out."
        for name in files.unreadable
    ]
    if not files.evaluations:
        return "\n\n".join(["This model has not been evaluated.", *parts])
    how = "Brackets are 95 % intervals. Programs find all figures in the metadata of this card, under `model-index`."
    return "\n\n".join([*parts, how])


def _table(evaluation: dict) -> str:
    from empathy_trl.evaluation.evaluate import kind_module  # not at the top: it brings torch

    data, metrics, baselines = evaluation["data"], evaluation["metrics"], evaluation["baselines"]
    kind = kind_module(evaluation["kind"])
    try:
        headings = kind.columns(evaluation)
    except (KeyError, TypeError):  # an evaluation of another version
        headings = {key: key.replace("_", " ") for key in metrics}
    head = ["", "**this model**", *(text(NAMES.get(name, name)) for name in baselines), "n"]
    rows = [head]
    for key, heading in headings.items():
        if key not in metrics:
            continue
        cells = [with_interval(row[key]) if key in row else "" for row in baselines.values()]
        rows.append([text(heading), f"**{with_interval(metrics[key])}**", *cells, metrics[key]["n"]])
    decoded = f", {text(data['decoding'])}" if data.get("decoding") else ""
    source = source_name(data["source"])
    of = (
        f"the embedded corpus {code(data['name'])}"
        if source == SAMPLE
        else f"{code(source)}, read as {code(data['name'])}"
    )
    intro = f"Split {code(data['split'])} of {of}: {data['n']} rows{decoded}."
    return f"{intro}\n\n{markdown(rows)}\n\n{_note(kind)}"


def _note(kind) -> str:
    """Return what the report says below such a table."""
    return kind.NOTE.replace("`docs/figures.md`", "`docs/figures.md` of empathy-trl")

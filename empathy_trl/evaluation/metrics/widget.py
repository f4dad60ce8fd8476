"""The page of a metric's Space: a table for the rows, a field for the settings, the result as JSON.

In place of `evaluate.utils.launch_gradio_widget`, which needs gradio 3 (evaluate 0.4.6); that gradio needs numpy 1, and we
need numpy 2.
"""

import json
from pathlib import Path

from empathy_trl.errors import UserError


def page(metric, readme: Path):
    """Return the page (`gradio.Blocks`) of a metric.

    Args:
        metric: as `evaluate.load` returns it.
        readme: shown below, without its front matter.
    """
    import gradio as gr

    names = list(metric.inputs)
    text = readme.read_text(encoding="utf-8").split("---\n", 2)[-1]
    with gr.Blocks(title=metric.name) as blocks:
        gr.Markdown(f"# {metric.name}\n\n{metric.summary}")
        if metric.on_page:
            rows = gr.Dataframe(headers=names, column_count=len(names), row_count=2, type="array", label="rows")
            settings = gr.Textbox("{}", label=f"settings, as a JSON object ({', '.join(metric.on_page)})")
            result = gr.JSON(label="result")
            gr.Button("compute").click(lambda *given: answer(metric, *given), [rows, settings], result)
        gr.Markdown(text)
    return blocks


def answer(metric, rows: list[list[str]], settings: str) -> dict:
    """Return what a metric makes of the cells of a table, or `{"error"}`.

    Args:
        rows: those without any text are left out. Where a row of an input is no text, its cell is JSON.
        settings: a JSON object with what `on_page` allows.
    """
    from empathy_trl.evaluation.metrics.module import TEXT

    try:
        chosen = json.loads(settings)
        refused = [name for name in chosen if name not in metric.on_page]
        if refused:
            raise UserError(f"settings: {refused[0]} cannot be set here (choices: {', '.join(metric.on_page)})")
        filled = [[str(cell or "") for cell in row] for row in rows if any(row)]
        columns = dict(zip(metric.inputs, zip(*filled, strict=True), strict=False))
        given = {
            name: [cell if kind is TEXT else json.loads(cell) for cell in columns.get(name, [])]
            for name, kind in metric.inputs.items()
        }
        return metric.compute(**given, **chosen)
    except (UserError, TypeError, ValueError) as error:
        return {"error": str(error)}

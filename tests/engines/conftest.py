"""The table of the engine tests: printed at the end, and written as `outputs/engines.md`."""

from pathlib import Path

import pytest

CELLS = pytest.StashKey[dict]()  # (engine, task) -> text
LEGEND = """
Two processes on a CPU (gloo, float32) against one process with the same global batch, five steps each. A cell has the
largest difference of a logged figure and of a final weight. Also asserted in each cell: the evaluation is the same row by
row, a training resumed after SIGKILL ends bit for bit as without it, and transformers and peft load the folder. FSDP2 refuses
an encoder-decoder, because PyTorch lets a weight belong to one group only, and encoder and decoder share an embedding.

Not run, because it needs GPUs: NCCL, bfloat16, offloading, 4-bit models under an engine, vLLM beside a training.
"""


def pytest_configure(config):
    config.stash[CELLS] = {}


@pytest.fixture
def cell(request):
    """Return a function that fills the cell of an engine and a task in the table."""

    def fill(engine: str, task: str, text: str):
        request.config.stash[CELLS][engine, task] = text

    return fill


def pytest_terminal_summary(terminalreporter, config):
    cells = config.stash[CELLS]
    if not cells:
        return
    engines, tasks = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    rows = [["", *engines], ["---"] * (1 + len(engines))]
    rows += [[task, *(cells.get((engine, task), "") for engine in engines)] for task in tasks]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    table = "\n".join(lines) + "\n" + LEGEND
    path = Path(config.rootpath) / "outputs" / "engines.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(table, encoding="utf-8")
    terminalreporter.write_line("\n" + table + f"\ntable: {path}")

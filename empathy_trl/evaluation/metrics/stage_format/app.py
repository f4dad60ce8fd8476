"""The Space of this metric."""

from pathlib import Path

import evaluate

from empathy_trl.evaluation.metrics.widget import page

folder = Path(__file__).parent
page(evaluate.load(str(folder / "stage_format.py")), folder / "README.md").launch()

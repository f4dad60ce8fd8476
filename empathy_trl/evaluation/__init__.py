"""Evaluation: predict, score with intervals, compare with baselines, report.

| module | content |
|---|---|
| `base` | `Evaluator`, the base class of all kinds of evaluation; baselines and tables |
| `answers`, `replies` | the evaluators: how each kind of prediction is made, scored, plotted and shown |
| `generation` | the completions of an evaluation, saved as they arrive |
| `metrics` | metrics and intervals: agreement with labels, counts, perplexity, classifiers; `evaluate` modules |
| `plots` | all plots, including training curves |
| `evaluate` | the evaluation of one model of one stage, and the files it writes |
| `held_out` | figures while a stage is trained, and its best checkpoint |
| `compare` | two results on the same rows: changes, intervals, p-values |
| `report` | `report.md` and `report.png` for a whole run, from its output files |
| `seeds` | several seeds of a recipe: mean, spread and pooled intervals of every figure, and of the changes |

Import the module that you need; this package imports none of them.
"""

from empathy_trl.errors import UserError
from empathy_trl.io import import_object

# kind of evaluation -> import path of its evaluator
EVALUATORS = {
    "emotions": "empathy_trl.evaluation.answers:EmotionEvaluator",
    "replies": "empathy_trl.evaluation.replies:ReplyEvaluator",
    "staged": "empathy_trl.evaluation.replies:StagedReplyEvaluator",
    "labels": "empathy_trl.evaluation.answers:LabelEvaluator",
    "ratings": "empathy_trl.evaluation.answers:RatingEvaluator",
    "pairs": "empathy_trl.evaluation.answers:PairEvaluator",
}


def evaluator(name: str):
    """Return the `base.Evaluator` of a kind of evaluation. UserError where there is no such kind."""
    if name not in EVALUATORS:
        raise UserError(f"kind: got {name!r}, expected one of {', '.join(EVALUATORS)}")
    return import_object("kind", EVALUATORS[name])()

"""Evaluation: predict, score with intervals, set beside baselines, report.

| module | one idea |
|---|---|
| `base` | `Evaluator`, what every kind of evaluation offers; baselines and tables |
| `emotions`, `replies`, `heads` | the evaluators: how each kind of prediction is made, scored, drawn and shown |
| `generation` | the completions of an evaluation, kept as they come |
| `metrics` | figures and their intervals: agreement with labels, counts, perplexity, classifiers; one `evaluate` module per folder |
| `plots` | all plots, also the curves of a training |
| `evaluate` | all of the above for one model of one stage, and the files it writes |
| `compare` | two results on the same rows: changes, intervals, p-values |
| `report` | `report.md` and `report.png` for a whole run, from its artefacts alone |

Import the module that you need; this package imports none of them.
"""

from empathy_trl.errors import UserError
from empathy_trl.io import import_object

# kind of evaluation -> import path of its evaluator
EVALUATORS = {
    "emotions": "empathy_trl.evaluation.emotions:EmotionEvaluator",
    "replies": "empathy_trl.evaluation.replies:ReplyEvaluator",
    "staged": "empathy_trl.evaluation.replies:StagedReplyEvaluator",
    "labels": "empathy_trl.evaluation.heads:LabelEvaluator",
    "ratings": "empathy_trl.evaluation.heads:RatingEvaluator",
    "pairs": "empathy_trl.evaluation.heads:PairEvaluator",
}


def evaluator(name: str):
    """Return the `base.Evaluator` of a kind of evaluation. UserError where there is no such kind."""
    if name not in EVALUATORS:
        raise UserError(f"kind: got {name!r}, expected one of {', '.join(EVALUATORS)}")
    return import_object("kind", EVALUATORS[name])()

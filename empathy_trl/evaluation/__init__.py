"""Evaluation: generate answers, score them with intervals, set them beside baselines, report.

| module | one idea |
|---|---|
| `generate` | greedy, batched completions that do not depend on the batch size |
| `score` | completions → predictions → metrics, all from one confusion matrix |
| `intervals` | 95 % bootstrap intervals, single and paired |
| `baselines` | the rows a reader needs to judge a figure: majority class, TF-IDF + logistic regression |
| `artefacts` | the files of an evaluation, written atomically |
| `plots` | its pictures |
| `evaluate` | all of the above for one model of one stage |
| `report` | `report.md` and `report.png` for a whole run, from its artefacts alone |

Import the module you need; this package imports nothing.
"""

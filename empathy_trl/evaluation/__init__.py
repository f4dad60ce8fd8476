"""Evaluation: predict, score with intervals, set beside baselines, report.

| module | one idea |
|---|---|
| `predict` | the outputs of a model with a classification head |
| `emotions`, `replies`, `staged`, `labels`, `ratings`, `pairs` | one kind of prediction each: how it is made, scored, drawn and shown |
| `reply_metrics`, `perplexity`, `reply_classifiers` | what is measured of replies: counts and BLEU, the model's own probabilities, other models' opinions |
| `judges` | by which models replies were judged, and which figures are theirs |
| `bertscore` | how alike replies and references are to an encoder |
| `score` | labels → metrics, all from one confusion matrix |
| `correlations` | ratings → MAE, Pearson, Spearman |
| `ordering` | pairs of replies → the share in the right order |
| `intervals` | 95 % bootstrap intervals, single and paired |
| `baselines` | the rows a reader needs to judge a figure: majority class or mean, TF-IDF + a linear model |
| `artefacts` | the files of an evaluation, written atomically |
| `plots`, `tables` | pictures and tables |
| `evaluate` | all of the above for one model of one stage; says what a kind offers |
| `compare` | two results on the same rows: changes, intervals, p-values |
| `report` | `report.md` and `report.png` for a whole run, from its artefacts alone |

Completions come from `empathy_trl.models`. Import the module you need; this package imports nothing.
"""

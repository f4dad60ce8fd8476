"""A leaderboard: many evaluations, a table for each set of rows, ranks that say no more than is known.

| module | one idea |
|---|---|
| `entries` | `eval_<split>.json` files, wherever they lie |
| `hub` | the same from the cards of models on the Hub |
| `groups` | what may stand in one column, and why the rest stands apart |
| `judges` | columns of their own for the figures of different classifiers |
| `directions` | whether more of a metric is better |
| `rank` | which model is established to be better than which, and the places that follow |
| `published` | figures of others, with their source (`published.yaml`) |
| `table` | what is shown, in no format yet: tables of rows |
| `names`, `sentences` | what models are called; what is said of a table in words |
| `board` | all of it, from entries and published figures |
| `markdown_file`, `csv_file`, `page`, `picture` | one format each |
| `write` | all files of a leaderboard, and the card of the data set that they make on the Hub |

Import the module you need; this package imports nothing.
"""

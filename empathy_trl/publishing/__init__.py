"""To the Hub and back: what a run gives away, and what is fetched.

| module | one idea |
|---|---|
| `contents` | what of a stage's folder is published, and without what |
| `push` | one commit with all of it; `merge`: an adapter as a whole model; `checkpoints`: while training goes on |
| `preflight` | whether it could be pushed, asked before the training |
| `patience` | what is tried again, and in words what went wrong |
| `pull` | model, recipe and results of a repository into a folder |

The card is made by `empathy_trl.model_card`. Import the module you need; this package imports nothing.
"""

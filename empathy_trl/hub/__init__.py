"""To the Hub and back: what a run gives away, and what is fetched.

| module | one idea |
|---|---|
| `contents` | what of a stage's folder is published, and without what |
| `push` | one commit with all of it; `merge`: an adapter as a whole model; `checkpoints`: while training goes on |
| `preflight` | whether it could be pushed, asked before the training |
| `patience` | what is tried again, and in words what went wrong |
| `pull` | model, recipe and results of a repository into a folder |

The card is made by `empathy_trl.hub`. Import the module you need; this package imports nothing.

The card of a published model: Markdown for people, front matter for programs, from a stage's folder alone.

| module | one idea |
|---|---|
| `card` | the whole text |
| `stage_files` | what the folder says |
| `front_matter`, `results` | what programs read; evaluations as machine-readable results, and back |
| `scores`, `procedure`, `snippets`, `machine`, `citations` | a part of the text each |
| `corpora`, `licences` | what is known of data and licences |
| `wording` | what is said in words |
| `escape` | values of strangers stay text |

Import the module you need; this package imports nothing.
"""

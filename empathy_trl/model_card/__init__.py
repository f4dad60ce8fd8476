"""The card of a published model: Markdown for people, front matter for programs, from a stage's folder alone.

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

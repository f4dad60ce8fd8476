"""Completions for chat prompts: any back end, the same prompts, ends and texts, on disk as they come.

| module | one idea |
|---|---|
| `generate` | completions, by any back end |
| `prompts` | what every back end is asked, and how its answer is read |
| `backends`: `padded`, `continuous`, `vllm_backend` | which of them generates; one module each |
| `prefix` | what all prompts begin with, read once |
| `batches` | batches as large as memory holds, halved where it did not |
| `stream` | completions on disk as they come, for an evaluation that is interrupted |
| `api_model` | completions from a server |

Import the module you need; this package imports nothing.
"""

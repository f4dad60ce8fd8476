"""Talking to a model: from Python, in a terminal, or on a web page.

| module | what is in it |
|---|---|
| `chat` | `Chat`: opens a model and talks to it, from Python |
| `load` | a model and its adapter, loaded |
| `prompts` | from a conversation to the prompt that the model was trained on |
| `session` | one conversation: history, context window, statistics |
| `reply` | sampling settings, and a reply split into its parts while it is written |
| `local`, `served` | a model in this process, or behind a server |
| `terminal`, `web` | the two user interfaces of `empathy-trl chat` |
"""

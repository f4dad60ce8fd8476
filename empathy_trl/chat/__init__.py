"""Talking to a model: one session, shown in a terminal or on a web page.

| module | what it knows |
|---|---|
| `terminal`, `display` | the read-print loop; how a reply looks there |
| `web` | the same on a page |
| `session` | what was said, what of it the model still sees, how long it took |
| `prompts` | how a model is asked, as the recipe says that trained it |
| `reply` | which part of a reply is being written |
| `adapters` | a model, and the LoRA adapter that was trained on it, loaded |
| `local`, `key_value_cache`, `token_decoder` | a model in this process, what it has computed of a session, its tokens as text |
| `served` | a model behind a server |
| `sampling`, `counts`, `streaming` | what both have in common: how they write, what it costs, a text that comes from a thread |

Arrows point one way: terminal and web → session → reply. Prompts and a model, local or served, are handed to a session.
"""

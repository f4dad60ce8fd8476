"""The Hugging Face Hub: publish a stage's model, fetch a model, write its card, and rank published results.

| module | content |
|---|---|
| `push` | publishes a model, a checkpoint or a data set, and checks before training that this will work |
| `pull` | fetches a published model; retries and errors of all requests to the Hub |
| `card` | fills `card.md.jinja`, the model card |
| `stage_folder` | reads a stage's folder and escapes its content for Markdown |
| `results` | evaluations as the `model-index` of a card, and back |
| `leaderboard` | many evaluations, ranked |
"""

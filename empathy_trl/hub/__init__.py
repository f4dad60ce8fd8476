"""The Hugging Face Hub: publishing a stage's model, fetching one, its card, and leaderboards of published results.

| module | content |
|---|---|
| `push` | publishes a model, a checkpoint or a data set, and checks before training that it will work |
| `pull` | fetches a published model; retries and errors of all requests to the Hub |
| `card` | fills `card.md.jinja`, the model card |
| `stage_folder` | what a stage's folder says about its model, shown safely in Markdown |
| `results` | evaluations as the `model-index` of a card, and back |
| `leaderboard` | many evaluations, ranked |
"""

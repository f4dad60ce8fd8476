"""A language model as a judge: the question (`prompt`), the server that answers it (`client`) and its key (`secret`),
all questions of a batch together (`batch`), the answers kept (`cache`), and what can fail (`errors`).

The reward that puts them together is `empathy_trl.rewards.llm_judge`.
"""

"""A language model as a judge: the question (`prompt`), the server that answers it (`client`), the answers kept (`cache`).

The reward that puts them together is `empathy_trl.rewards.llm_judge`.
"""

"""Grading a file of responses: what is read (`pairs`), what is written (`scores`), and the run between them (`scoring`).

The reward `llm_judge` grades; this package stands on it, as `empathy_trl.models.api` stands below it.
"""

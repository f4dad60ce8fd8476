"""Prompts that are repeated once per completion, computed once: `packing`, `attention`, `generation`.

`empathy_trl.trainers.shared_prefix` puts the three into a trainer.
"""

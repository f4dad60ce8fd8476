"""Prompts that are repeated once per completion, computed once: `packing`, `attention`, `generation`.

`empathy_trl.trainers.shared_prefix.mixin` puts the three into a trainer.
"""

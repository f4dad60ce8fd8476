"""Shared prefixes: a prompt that TRL repeats once per completion is computed once.

* `packing`: packs the rows of a batch behind one copy of each prompt, and unpacks them; attention over such a packed row,
  and which models support it;
* `decoding`: samples several completions of a prompt with few copies of its cache;
* `mixin`: combines the three in a trainer.
"""

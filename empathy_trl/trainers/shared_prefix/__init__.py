"""Shared prefixes: a prompt that TRL repeats once per completion is computed once.

* `packing`: the rows of a batch behind one copy of each prompt, and back;
* `attention`: attention over such a packed row, and which models support it;
* `decoding`: sampling several completions of a prompt over few copies of its cache;
* `mixin`: the three in a trainer.
"""

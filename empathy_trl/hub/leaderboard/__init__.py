"""A leaderboard: many evaluations, a table for each set of rows, and ranks that say no more than the comparisons support.

`entries` reads the results, `ranking` groups and ranks them, `table` makes the content, and `render` writes the files.
"""

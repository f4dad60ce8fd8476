"""A leaderboard: many evaluations, one table for each set of rows, and ranks that reflect statistical uncertainty.

`entries` reads the results, `ranking` groups and ranks them, `table` builds the content, and `render` writes the files.
"""

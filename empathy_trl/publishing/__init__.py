"""What a run gives away: a model card, results that programs read, and a push to the Hub."""

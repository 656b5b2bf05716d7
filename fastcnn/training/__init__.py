"""Training loops, their history and their progress."""

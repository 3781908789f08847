"""What was asked of a run, and what a machine makes of it.

No data is read here, and nothing is trained.
"""

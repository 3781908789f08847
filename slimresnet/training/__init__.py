"""The training of a network: loop, step, optimiser, checkpoints.

What an image is belongs in `data`, what is said of a trained network in `evaluation`.
"""

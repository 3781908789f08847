"""A run: recipe, optimiser and schedule, weight averaging, loop, checkpoints.

What an image is before the model belongs in `cifar10`, what is said about a trained model in `evaluation`.
"""

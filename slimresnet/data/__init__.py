"""From rows to the model's inputs: read, split, order, augment, collate.

All of it is a function of the data and of (seed, epoch, position). Nothing of the training loop belongs here.
"""

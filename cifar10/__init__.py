"""An image before the model: read, split, order, augment, collate.

Everything here is a function of the data and of (seed, epoch, position). Nothing of the model or of the training loop
belongs here.
"""

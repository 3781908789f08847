"""Corruptions of images that a model is scored under, and never trained on."""

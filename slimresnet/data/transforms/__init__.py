"""What is done to batches of uint8 pixels, a module an algorithm.

A transform carries its own settings. Where pixels come from is not known here.
"""

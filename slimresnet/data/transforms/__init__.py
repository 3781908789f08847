"""What is done to batches of uint8 pixels, a module an algorithm.

A transform carries its own settings; `transform.py` finds all that lie here. Where pixels come from is not known here.
"""

"""Where images come from: the Hub or a folder, memory, NumPy files, anything to predict on.

A source gives labels and pixels. What is done to pixels belongs in `transforms`.
"""

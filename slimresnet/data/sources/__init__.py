"""Where images come from: the Hub or a folder, memory, NumPy files, anything to predict on.

A source gives labels and pixels (`source.py` says in which form); `dataset.py` finds the one that a dataset's name
means. What is done to pixels belongs in `transforms`.
"""

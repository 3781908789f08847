"""What the project is tried out with: a sample of CIFAR-10 for a first run without a download, and what made it.

Nothing here is installed, and no package imports it.
"""

"""What is said of a trained network: logits, scores and pictures of them.

How the network was trained is not known here.
"""

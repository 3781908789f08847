"""What a person calls: train, evaluate, predict, export, push. Each leaves the process as it was.

How each does its work belongs in the rooms below.
"""

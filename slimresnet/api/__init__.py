"""What a person calls: train, evaluate, predict, export, push.

How each does its work belongs in the rooms below.
"""

"""Learning from a larger network: the teachers, and the loss that they make.

A teacher is read and never trained; what a step does with the loss is not known here.
"""

"""A finished folder as others get it: the model card, and the way to the Hub.

Reads what training and evaluation wrote; trains and scores nothing.
"""

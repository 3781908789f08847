"""The folder of a run: the names of its files, who wrote them, who is at work there, whole files only.

What the files say is not known here.
"""

"""The forms that a trained network can take. A module here that has `FORMATS` is a format; `registry` finds it.

A format writes, opens and checks its file. Nothing is trained or scored here.
"""

"""Measurements of speed, each a command that prints a table and writes a JSON file beside itself.

Contenders take turns (A B A B …) within one run and medians are compared, since machines are shared and drift.
"""

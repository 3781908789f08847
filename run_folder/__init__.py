"""The folder of a run as every tool finds and leaves it: whole files, a record of those that were written here, one
owner at a time. What the files say is no matter of this package, which imports no other of this repository."""

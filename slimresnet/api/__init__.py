"""What a person calls from Python: a function for each command line, without its flags' parsing."""

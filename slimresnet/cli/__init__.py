"""The command lines: parse, call, print. What a command does belongs elsewhere."""

"""The command line: one command a file, everything heavy imported inside the command."""

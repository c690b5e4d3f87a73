"""The command line: one command per file, everything heavy imported inside the command."""

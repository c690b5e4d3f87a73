"""The folder of a set while it is being made: who writes, what is done, parts of many jobs, publishing."""

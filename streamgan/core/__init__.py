"""Foundations that every other package may use: errors, files, hashing, colour, configuration, logging."""

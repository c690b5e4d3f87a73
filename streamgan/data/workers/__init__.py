"""The processes that decode: from a request to a batch in shared memory, watched while they work."""

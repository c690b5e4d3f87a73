"""One unit of work: which rows, which shards, written as tars with their indexes and a commit record."""

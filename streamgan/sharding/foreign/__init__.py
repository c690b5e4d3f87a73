"""`streamgan index`: tars that other programs made become a shard set as they are."""

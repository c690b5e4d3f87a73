"""Comparing recipes honestly: one budget, one shard set, one test split, the baselines in the same table."""

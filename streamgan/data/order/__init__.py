"""Which samples form global batch k: the canonical order of one shard set, and mixtures of several."""

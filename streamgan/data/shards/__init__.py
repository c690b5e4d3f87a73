"""Where the bytes of a sample come from: local shards, a node cache of downloaded ones, images by range."""

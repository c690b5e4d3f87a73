"""From parquet files to a shard set: `source` reads, `plan` decides, `check` judges, `writer` makes a unit,
`engines` runs units in parallel, `run` puts them together, `verify` proves a finished set."""

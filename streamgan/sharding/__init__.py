"""From parquet files or folders of images to a shard set.

`run.py` is the command from top to bottom, `prepare.py` its plan. The rooms, in the order of a row's journey:
`source` lists files and reads rows; `unit` cuts the plan into units of work and writes one of them as tars;
`sample` judges a row's images and makes its members; `engine` runs units on this machine or a cluster;
`folder` knows what lies in the folder of a set, who works there, and publishes it. `splits.py` says which
split an image is in, `verify.py` proves a finished set, `foreign` makes a set of tars from elsewhere.
"""

"""What is sharded: parquet files, folders of images, data sets of the Hub; listed, and read row by row."""

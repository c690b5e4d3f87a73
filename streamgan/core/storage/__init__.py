"""Where bytes lie: files of a disk, objects of a bucket, pages of a server; with retries."""

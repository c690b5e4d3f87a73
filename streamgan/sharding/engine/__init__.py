"""Who runs the units: processes of this machine or tasks of a Ray cluster, and what is shown meanwhile."""

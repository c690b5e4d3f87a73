"""What the plan needs next, downloaded or read ahead before a worker asks for it."""

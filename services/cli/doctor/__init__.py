"""What is wrong, here or on a cluster: `doctor`, `smoke`."""

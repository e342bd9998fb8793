"""The page at /: one file, which asks nobody but this gateway."""

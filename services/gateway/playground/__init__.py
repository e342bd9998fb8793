"""The page at /: a file for its structure, its looks and what it does, and no request to anybody but this gateway."""

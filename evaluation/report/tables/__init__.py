"""The report's tables, one module each."""

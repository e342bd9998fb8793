"""Makes the keys by which callers of an orchestrator are known."""

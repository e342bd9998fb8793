"""The routing rule as a state machine without I/O: the project's kernel."""

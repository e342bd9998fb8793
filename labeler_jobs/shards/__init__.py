"""Shards: where their files lie, and sets of their numbers."""

"""Queries that labels are made from: their sources, their rows, and loading them."""

"""Tokens as text, and text as sentences."""

"""Tokens as text."""

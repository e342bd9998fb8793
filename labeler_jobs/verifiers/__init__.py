"""Verifiers: what they are asked and answer, and language models in that role."""

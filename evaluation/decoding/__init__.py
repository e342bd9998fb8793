"""Decodes many questions at once: by one model, under a routing rule, or along the oracle's path."""

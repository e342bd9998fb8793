"""Routers that R2R's authors publish: safe reading of their pickles, their layout, and the way into a checkpoint."""

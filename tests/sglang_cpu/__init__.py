"""Runs the unmodified SGLang package on a CPU, for the tests. Not part of the product."""

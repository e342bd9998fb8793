"""Runs a suite against a running pair."""

"""Tells which routing rules are installed, and holds them to what every rule must keep."""

"""Trivium's wire contract. The modules of `trivium.v1` are generated from the .proto files."""

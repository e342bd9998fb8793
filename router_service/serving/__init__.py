"""The router's process: settings, scoring in batches, and the gRPC service."""

"""What several processes share: errors, settings, the gRPC server and clients."""

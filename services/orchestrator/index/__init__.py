"""What replicas and orchestrators share through Redis."""

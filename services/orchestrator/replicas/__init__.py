"""Which replicas there are, what they hold, and the streams to them."""

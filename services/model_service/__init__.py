"""What the services of both models have in common."""

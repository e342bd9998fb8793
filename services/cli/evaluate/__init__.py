"""`trivium evaluate` and `trivium bench`: what a pair comes to."""

"""What is learnt from live traffic, of which no token changes by it."""

"""What the pair is: who belongs to it, and what its thresholds cost."""

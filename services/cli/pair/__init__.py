"""`trivium up`: a pair as processes of this machine."""

"""`trivium train` and `trivium calibrate`: a router and its threshold."""

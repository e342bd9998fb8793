"""The router service: the divergence router, its checkpoint, training and calibration, and the server that scores."""

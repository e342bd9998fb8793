"""From labelled datasets to a calibrated router: reading, training, calibration, checkpoint."""

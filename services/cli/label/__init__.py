"""`trivium label`: labelled routing data, made here or by Jobs of a cluster."""

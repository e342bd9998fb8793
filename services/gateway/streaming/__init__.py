"""From the choices of a request to bytes of its response."""

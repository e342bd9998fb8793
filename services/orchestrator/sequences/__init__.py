"""The requests in flight: what each has written, and where it runs."""

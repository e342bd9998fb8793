"""The small model's service: drafts tokens ahead of its caller."""

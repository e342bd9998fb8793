"""The large model's service: answers which token it would write."""

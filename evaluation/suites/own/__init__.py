"""A user's own questions: the fields of a file, and the graders that a row may name."""

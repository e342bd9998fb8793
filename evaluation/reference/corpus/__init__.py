"""The synthetic suite: its questions in three domains, their wording, splits and verifier."""

"""The processes of Trivium and what they share."""

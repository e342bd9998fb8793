"""The front door: OpenAI's HTTP API over the orchestrators of a pair. Keeps nothing between two requests."""

"""Commands that ask an orchestrator: `generate`, `chat`, `demo`."""

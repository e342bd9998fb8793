"""What a router's checkpoint consists of, and how it is said that one can't be used. Imports nothing heavy."""

DESCRIPTION_FILE = "router.json"
WEIGHTS_FILE = "router.safetensors"
CHECKPOINT_FILES = (DESCRIPTION_FILE, WEIGHTS_FILE)


class CheckpointError(ValueError):
    """A router checkpoint, or a model's weights, cannot be used; the message names file and field."""

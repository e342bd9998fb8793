"""The models that label: opening them, telling which they are, and writing with them."""

"""Files that somebody else has written: bounded, and refused with the field that is wrong."""

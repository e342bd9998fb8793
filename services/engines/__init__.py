"""Model engines: what runs a small or a large model, behind one small interface each."""

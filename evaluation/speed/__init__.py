"""How fast serving and labelling are."""

"""Labelling as Kubernetes Jobs. Needs neither torch nor pyarrow: the pods bring those."""

"""Routing rules: which of the SLM's drafts stand.

In general y = s if accept(x, s) else LLM(x), where accept depends on the prefix x and the draft s alone. A rule is
that `accept`. The routing core asks it; what its scores are computed from, and where, is the rule's to say.
"""

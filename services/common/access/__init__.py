"""Who may call, as which tenant, and how much: for every front door. Knows no protocol."""

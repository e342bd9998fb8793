"""The orchestrator: owns sequences, and joins the small model, the router and the large model into one stream."""

"""Jobs, locks and signals."""

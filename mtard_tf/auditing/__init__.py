"""Audits: attacks on a model, what survives them, and whether the figures can be believed."""

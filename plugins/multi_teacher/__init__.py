"""Distillation from several teachers at once: MTARD and B-MTARD."""

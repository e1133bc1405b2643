"""Defensive distillation: soft labels of a teacher at a high temperature, deployed at 1."""

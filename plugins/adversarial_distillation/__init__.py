"""Distillation of robustness from teachers: the rows that the multi-teacher methods compare with."""

"""Distillation of robustness from a teacher: rows that multi-teacher methods compare with."""

"""Distillation with hard and soft labels, from one teacher or from several sizes of it."""

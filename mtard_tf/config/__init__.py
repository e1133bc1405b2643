"""Gin files to experiments, and their errors in one line."""

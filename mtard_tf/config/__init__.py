"""Reads gin files as experiments, with errors of one line."""

"""Carries an experiment out in a run directory."""

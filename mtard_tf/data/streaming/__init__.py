"""Data sets that stay on disk: read from ArrayRecord by Grain, batch by batch."""

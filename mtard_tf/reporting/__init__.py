"""Tables, plots, progress bars, and the files of a run as they are read back."""

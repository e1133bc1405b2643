"""Tables, plots and progress lines."""

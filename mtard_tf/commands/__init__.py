"""What each command does, once its flags are read."""

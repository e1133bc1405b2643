"""What is to be done: stages, chains of stages, and the experiment that orders them."""

"""Other people's weights as `.keras` files: what `mtard-import` does, and no code of theirs is run.

checkpoint.read(FILE) -> names and lazily read tensors, in PyTorch's layout
matching.match(...)   -> which of them belong to which Keras layer
importer.run(...)     -> model, checks, file
"""

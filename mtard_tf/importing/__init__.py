"""Weights of other frameworks as Keras models, for `mtard-import`; runs no code of the files.

checkpoint.read(FILE) -> names and lazily read tensors, in PyTorch's layout
matching.match(...)   -> which of them belong to which Keras layer
checks                -> normalisation, recorded logits, clean accuracy
"""

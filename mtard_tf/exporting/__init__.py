"""A student as a SavedModel, with its model card."""

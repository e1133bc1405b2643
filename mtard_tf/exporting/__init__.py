"""A student as files for serving (SavedModel, LiteRT, ONNX), with its model card."""

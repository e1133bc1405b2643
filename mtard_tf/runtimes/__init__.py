"""Deployed models as functions that the audit takes: LiteRT, ONNX and HTTP, without gradients."""

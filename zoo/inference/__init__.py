"""Classify images with a published network in onnxruntime."""

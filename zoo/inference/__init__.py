"""Images in, labels out: a published network in onnxruntime."""

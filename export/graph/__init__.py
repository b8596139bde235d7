"""The proof that the sums of an ONNX graph are exact."""

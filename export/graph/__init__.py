"""The ONNX graph of a deployed network, and the proof that its sums are exact."""

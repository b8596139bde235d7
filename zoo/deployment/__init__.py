"""From a trained network to one whose sums are exact: norms folded, weights on a grid; and
its ONNX graph.

The function is ``zoo.deploy``; a package of that name would hide behind it.
"""

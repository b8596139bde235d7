"""Fused kernels for the neurons.

Their spikes equal those of the loop in zoo.neurons.lif bit for bit, and so do their gradients, with
these exceptions: tanh, within 2e-6 / width; on a GPU widths that are no power of two and half
precision, within 5e-6.
"""

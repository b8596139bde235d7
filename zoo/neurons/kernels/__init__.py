"""Fast kernels for the neurons, each held to the reference loop of zoo.neurons bit for bit, but for
the gradients of tanh, to 2e-6 / width, and on a GPU of widths that are no powers of two and of half
types, to 5e-6.
"""

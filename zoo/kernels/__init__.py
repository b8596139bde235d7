"""Fast kernels for the neurons, each held to the reference loop of zoo.neurons bit for bit; on a
GPU the gradients of tanh, of widths that are no powers of two and of half types to 5e-6.
"""

"""Fast kernels for the neurons, each held to the reference loop of zoo.neurons bit for bit."""

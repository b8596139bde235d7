"""Leaky integrate-and-fire neurons, their surrogate gradients and their kernels."""

from zoo.neurons.lif import LIF, SpikeLayer, lif_step, spike_layer_factory

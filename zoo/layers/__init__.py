"""Layers around the neurons: convolutions, attention and shortcut heads."""

"""The model card and what is told on it."""

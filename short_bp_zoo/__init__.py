"""The command line: short-bp-zoo, or python -m short_bp_zoo."""

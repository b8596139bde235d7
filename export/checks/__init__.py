"""What a folder has to pass before it is written, published or trusted."""

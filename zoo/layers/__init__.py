"""What the networks are made of between their neurons."""

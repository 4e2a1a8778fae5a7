"""A study as a plain Flower app, as Flower's users write it: the baseline of this deployment."""

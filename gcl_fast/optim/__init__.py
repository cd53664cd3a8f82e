"""Holds optimizers, learning rates, the precision, and what happens to steps that are not finite."""

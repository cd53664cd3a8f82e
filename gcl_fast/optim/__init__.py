"""Optimizers, learning rates, arithmetic, and steps that are not finite."""

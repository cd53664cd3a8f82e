"""Torch's profile of training steps, read and drawn."""

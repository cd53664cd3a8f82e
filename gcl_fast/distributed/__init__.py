"""Holds what the ranks of a run exchange, how each finds its device, and how a restart is recognized."""

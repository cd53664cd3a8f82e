"""Ranks: what several processes exchange, how each finds its device, and what a restart goes on with."""

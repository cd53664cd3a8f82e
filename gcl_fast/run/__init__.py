"""Holds what makes a run: its folder, its loop over stages, its checkpoints, and the reading of its weights."""

"""One run: its folder, its loop over stages, its checkpoints, and how weights are read back."""

"""Use trained weights: load them, embed images, search, turn people."""

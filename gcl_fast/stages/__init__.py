"""Holds the stages of GCL: source, warm-up, generative and joint. Each plans crops and updates networks by steps."""

"""The stages of GCL: source, warm-up, generative and joint. Each makes plans of crops and updates networks by steps."""

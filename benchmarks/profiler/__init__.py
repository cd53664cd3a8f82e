"""Read and draw torch's profile of training steps."""

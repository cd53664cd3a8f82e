"""The training loop: process and ranks, inputs, the three stages, their step, checkpoints and logs."""

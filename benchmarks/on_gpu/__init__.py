"""Parts of benchmarks/gpu.py: the commands of the proof, what they measure, and the page they leave."""

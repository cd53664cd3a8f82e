"""What benchmarks/gpu.py is made of: the parts of the proof, what measures them, and the page they leave."""

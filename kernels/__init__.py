"""The one room of ops: a file holds one op, named as the op is, with all that belongs to it.

That is the public function, its definition in plain PyTorch with the same signature (`OP_reference`), the Triton
kernels and their launchers, and what torch must know: fake, gradient, and which kernel serves which device. The CPU's
kernels are C++ and the rasterizer's GPU kernels CUDA (csrc/); the first import of an op builds these.

An op is imported from its file: `from gcl_fast.kernels.memory_update import memory_update`. Importing this package
alone imports no torch, imports no Triton and builds nothing.
"""

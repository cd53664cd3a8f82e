"""Triton kernels of gcl_fast, one op per file: reference, kernel, registration."""

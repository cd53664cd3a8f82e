"""C++ and CUDA ops of gcl_fast; build.py compiles and registers them."""

// One function, several instruction sets: the loader picks the best one the CPU has (ELF ifunc), so that a library built
// ahead of time stays portable and a hot loop still gets 8 or 16 lanes. Put GCL_CLONES before the function's return type;
// what it calls must be inlined into it (GCL_INLINE) to be compiled along.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define GCL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GCL_CLONES  // other CPUs have one vector width that matters (NEON), which -O3 uses
#endif
#define GCL_INLINE inline __attribute__((always_inline))

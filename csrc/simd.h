// One function, several instruction sets: the loader picks the best one the CPU has (ELF ifunc), so that a library built
// ahead of time stays portable and a hot loop still gets 8 or 16 lanes. Put GCL_CLONES before the function's return type;
// what it calls must be inlined into it (GCL_INLINE) to be compiled along.
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#define GCL_CLONES  // one is enough to check, and three take three times as long to compile
#elif defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define GCL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else  // no dispatch by level yet; one feature to a clone, since arch=haswell would serve that very model alone
#define GCL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define GCL_CLONES  // other CPUs have one vector width that matters (NEON), which -O3 uses
#endif
#define GCL_INLINE inline __attribute__((always_inline))

namespace gcl {

// Four floats at any address, in one register.
using Four = float __attribute__((vector_size(16)));
using FourAnywhere = float __attribute__((vector_size(16), aligned(4), may_alias));

GCL_INLINE Four load_four(const float* at) { return *reinterpret_cast<const FourAnywhere*>(at); }
GCL_INLINE void store_four(float* at, Four value) { *reinterpret_cast<FourAnywhere*>(at) = value; }
GCL_INLINE void add(float* at, Four value) { *reinterpret_cast<FourAnywhere*>(at) += value; }

// Copies past the caches to where it will not be read soon: a line is then neither fetched before it is written nor takes
// another's place. `stream_end` before another thread may look.
GCL_INLINE void stream(void* to, const void* from, int64_t bytes) {
#ifdef __SSE2__
  if ((reinterpret_cast<uintptr_t>(to) | uintptr_t(bytes)) % 16 == 0) {
    for (int64_t i = 0; i < bytes / 16; ++i)
      _mm_stream_si128(static_cast<__m128i*>(to) + i, _mm_loadu_si128(static_cast<const __m128i*>(from) + i));
    return;
  }
#endif
  memcpy(to, from, size_t(bytes));
}
GCL_INLINE void stream_end() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace gcl

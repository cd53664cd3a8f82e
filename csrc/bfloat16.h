// Conversions between float32, in which kernels compute, and what images are stored in: float32, or bfloat16 as the bits
// of a uint16_t.
#pragma once

#include <stdint.h>

#include <bit>

#include "simd.h"

namespace gcl {

GCL_INLINE float widen(float x) { return x; }
GCL_INLINE float widen(uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }
GCL_INLINE void narrow(float x, float& to) { to = x; }
GCL_INLINE void narrow(float x, uint16_t& to) {  // bfloat16, to nearest even; NaN stays NaN
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to = uint16_t(x == x ? rounded : (bits >> 16) | 0x40u);
}

}  // namespace gcl

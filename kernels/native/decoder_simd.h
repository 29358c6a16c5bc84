/* Vectors of 16 lanes, on every instruction set: the one type that the decoder's float code uses.
 *
 * Whatever the hardware's width, lane i of a result is the same IEEE operation on lane i of the
 * operands, multiply-adds are fused everywhere, and sums over lanes go down one tree.  So every code
 * path computes the same bits, and a row's bits do not depend on the company that it is in. */
#ifndef SGEN_DECODER_SIMD_H
#define SGEN_DECODER_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

INLINE float bfloat_to_float(uint16_t b) {
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
/* to the nearest, ties to even; NaNs are not for it */
INLINE uint16_t float_to_bfloat(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#if defined(SGEN_AVX512)
#include "decoder_simd_avx512.h"
#elif defined(SGEN_AVX2)
#include "decoder_simd_avx2.h"
#elif defined(SGEN_NEON)
#include "decoder_simd_neon.h"
#else
#include "decoder_simd_portable.h"
#endif

/* e^x to 1 ulp or 2; 0 below -87.3, also for -inf; x above 88 is not for it. */
INLINE vf vf_exp(vf x) {
    const vf log2e = vf_set(1.44269504088896341f);
    const vf high = vf_set(0.693359375f), low = vf_set(-2.12194440e-4f);
    vf clamped = vf_max(x, vf_set(-87.0f));
    vf n = vf_round(vf_mul(clamped, log2e));
    vf r = vf_nmadd(n, low, vf_nmadd(n, high, clamped)); /* |r| <= log(2) / 2 */
    vf p = vf_set(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set(1.0f)));
    return vf_zero_below(vf_scale2(p, n), x, -87.0f);
}

#endif

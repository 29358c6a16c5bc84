/* The AVX-512 intrinsics that kernels/native uses, in plain C: for tests on processors without them.
 *
 * Each does, lane by lane, what Intel's guide says of it.  Conversions to integers round to nearest,
 * ties to even, as the processor does unless told otherwise. */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct { float f[16]; } __m512;
typedef struct { uint32_t u[16]; } __m512i;
typedef struct { uint16_t u[16]; } __m256i;
typedef struct { uint8_t u[16]; } __m128i;
typedef uint16_t __mmask16;

#define _CMP_GE_OQ 29
#define EMULATED static inline __attribute__((unused))
#define LANES_DO for (int i = 0; i < 16; i++)

#define FLOAT_OP(name, expression)                                                                \
    EMULATED __m512 name(__m512 a, __m512 b) {                                                    \
        LANES_DO a.f[i] = expression;                                                             \
        return a;                                                                                 \
    }
FLOAT_OP(_mm512_add_ps, a.f[i] + b.f[i])
FLOAT_OP(_mm512_sub_ps, a.f[i] - b.f[i])
FLOAT_OP(_mm512_mul_ps, a.f[i] * b.f[i])
FLOAT_OP(_mm512_div_ps, a.f[i] / b.f[i])
FLOAT_OP(_mm512_max_ps, a.f[i] > b.f[i] ? a.f[i] : b.f[i])
FLOAT_OP(_mm512_min_ps, a.f[i] < b.f[i] ? a.f[i] : b.f[i])

EMULATED __m512 _mm512_set1_ps(float x) { __m512 r; LANES_DO r.f[i] = x; return r; }
EMULATED __m512 _mm512_loadu_ps(const void *p) { __m512 r; memcpy(&r, p, 64); return r; }
EMULATED void _mm512_storeu_ps(void *p, __m512 a) { memcpy(p, &a, 64); }
EMULATED __m512 _mm512_abs_ps(__m512 a) { LANES_DO a.f[i] = fabsf(a.f[i]); return a; }
EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    LANES_DO a.f[i] = fmaf(a.f[i], b.f[i], c.f[i]);
    return a;
}
EMULATED __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) {
    LANES_DO a.f[i] = fmaf(-a.f[i], b.f[i], c.f[i]);
    return a;
}
/* of what there is, only 8: to the nearest integer */
EMULATED __m512 _mm512_roundscale_ps(__m512 a, int how) {
    LANES_DO a.f[i] = how == 8 ? rintf(a.f[i]) : NAN;
    return a;
}
/* of what there is, only a >= b */
EMULATED __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
    unsigned r = 0;
    LANES_DO r |= (unsigned)(how == _CMP_GE_OQ && a.f[i] >= b.f[i]) << i;
    return (__mmask16)r;
}
EMULATED __m512 _mm512_mask_mov_ps(__m512 other, __mmask16 k, __m512 a) {
    LANES_DO if (k >> i & 1) other.f[i] = a.f[i];
    return other;
}
EMULATED __m512 _mm512_mask_loadu_ps(__m512 other, __mmask16 k, const void *p) {
    LANES_DO if (k >> i & 1) other.f[i] = ((const float *)p)[i];
    return other;
}
EMULATED void _mm512_mask_storeu_ps(void *p, __mmask16 k, __m512 a) {
    LANES_DO if (k >> i & 1) ((float *)p)[i] = a.f[i];
}
/* quarters: two of a, then two of b */
EMULATED __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int order) {
    __m512 r;
    LANES_DO r.f[i] = (i < 8 ? a : b).f[4 * (order >> 2 * (i / 4) & 3) + i % 4];
    return r;
}
/* lanes within quarters */
EMULATED __m512 _mm512_permute_ps(__m512 a, int order) {
    __m512 r;
    LANES_DO r.f[i] = a.f[i / 4 * 4 + (order >> 2 * (i % 4) & 3)];
    return r;
}
EMULATED float _mm512_cvtss_f32(__m512 a) { return a.f[0]; }

EMULATED float _cvtsh_ss(uint16_t h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    float f = exponent == 31 ? (mantissa ? NAN : INFINITY)
              : exponent     ? ldexpf((float)(mantissa + 1024), exponent - 25)
                             : ldexpf((float)mantissa, -24);
    return h >> 15 ? -f : f;
}
EMULATED __m512 _mm512_cvtph_ps(__m256i a) {
    __m512 r;
    LANES_DO r.f[i] = _cvtsh_ss(a.u[i]);
    return r;
}

EMULATED __m128i _mm_loadu_si128(const __m128i *p) { __m128i r; memcpy(&r, p, 16); return r; }
EMULATED __m256i _mm256_loadu_si256(const __m256i *p) { __m256i r; memcpy(&r, p, 32); return r; }
EMULATED __m512i _mm512_loadu_si512(const void *p) { __m512i r; memcpy(&r, p, 64); return r; }
EMULATED void _mm_storeu_si128(__m128i *p, __m128i a) { memcpy(p, &a, 16); }
EMULATED void _mm256_storeu_si256(__m256i *p, __m256i a) { memcpy(p, &a, 32); }
EMULATED void _mm512_storeu_si512(void *p, __m512i a) { memcpy(p, &a, 64); }
EMULATED __m512i _mm512_castps_si512(__m512 a) { __m512i r; memcpy(&r, &a, 64); return r; }
EMULATED __m512 _mm512_castsi512_ps(__m512i a) { __m512 r; memcpy(&r, &a, 64); return r; }

EMULATED __m512i _mm512_set1_epi32(int x) { __m512i r; LANES_DO r.u[i] = (uint32_t)x; return r; }
EMULATED __m512i _mm512_set1_epi8(char x) { __m512i r; memset(&r, x, 64); return r; }
EMULATED __m512i _mm512_add_epi32(__m512i a, __m512i b) { LANES_DO a.u[i] += b.u[i]; return a; }
EMULATED __m512i _mm512_and_si512(__m512i a, __m512i b) { LANES_DO a.u[i] &= b.u[i]; return a; }
EMULATED __m512i _mm512_or_si512(__m512i a, __m512i b) { LANES_DO a.u[i] |= b.u[i]; return a; }
EMULATED __m512i _mm512_slli_epi32(__m512i a, unsigned n) { LANES_DO a.u[i] <<= n; return a; }
EMULATED __m512i _mm512_srli_epi32(__m512i a, unsigned n) { LANES_DO a.u[i] >>= n; return a; }
EMULATED __m512i _mm512_slli_epi16(__m512i a, unsigned n) {
    uint16_t half[32];
    memcpy(half, &a, 64);
    for (int i = 0; i < 32; i++) half[i] = (uint16_t)(half[i] << n);
    memcpy(&a, half, 64);
    return a;
}
EMULATED __m512i _mm512_srli_epi16(__m512i a, unsigned n) {
    uint16_t half[32];
    memcpy(half, &a, 64);
    for (int i = 0; i < 32; i++) half[i] = (uint16_t)(half[i] >> n);
    memcpy(&a, half, 64);
    return a;
}
/* sums + unsigned bytes of a * signed bytes of b, four to a sum */
EMULATED __m512i _mm512_dpbusd_epi32(__m512i sums, __m512i a, __m512i b) {
    uint8_t x[64];
    int8_t y[64];
    memcpy(x, &a, 64);
    memcpy(y, &b, 64);
    for (int i = 0; i < 64; i++) sums.u[i / 4] += (uint32_t)(x[i] * y[i]);
    return sums;
}

EMULATED __m512 _mm512_cvtepi32_ps(__m512i a) {
    __m512 r;
    LANES_DO r.f[i] = (float)(int32_t)a.u[i];
    return r;
}
EMULATED __m512i _mm512_cvtps_epi32(__m512 a) {
    __m512i r;
    LANES_DO r.u[i] = fabsf(a.f[i]) < 0x1p31f ? (uint32_t)(int32_t)lrintf(a.f[i]) : 0x80000000u;
    return r;
}
EMULATED __m512i _mm512_cvtepu16_epi32(__m256i a) { __m512i r; LANES_DO r.u[i] = a.u[i]; return r; }
EMULATED __m512i _mm512_cvtepu8_epi32(__m128i a) { __m512i r; LANES_DO r.u[i] = a.u[i]; return r; }
EMULATED __m512i _mm512_cvtepi8_epi32(__m128i a) {
    __m512i r;
    LANES_DO r.u[i] = (uint32_t)(int32_t)(int8_t)a.u[i];
    return r;
}
EMULATED __m256i _mm512_cvtepi32_epi16(__m512i a) {
    __m256i r;
    LANES_DO r.u[i] = (uint16_t)a.u[i];
    return r;
}
/* saturating */
EMULATED __m128i _mm512_cvtsepi32_epi8(__m512i a) {
    __m128i r;
    LANES_DO {
        int32_t x = (int32_t)a.u[i];
        r.u[i] = (uint8_t)(int8_t)(x > 127 ? 127 : x < -128 ? -128 : x);
    }
    return r;
}

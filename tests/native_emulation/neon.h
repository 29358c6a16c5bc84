/* The NEON intrinsics that kernels/native uses, in plain C: for tests on processors without them.
 *
 * Each does, lane by lane, what Arm's reference says of it; types are the compiler's vectors, whose
 * operators the code also uses. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define VECTOR(type, name, bytes) typedef type name __attribute__((vector_size(bytes)));
VECTOR(float, float32x4_t, 16)
VECTOR(int8_t, int8x8_t, 8)
VECTOR(int8_t, int8x16_t, 16)
VECTOR(uint8_t, uint8x8_t, 8)
VECTOR(uint8_t, uint8x16_t, 16)
VECTOR(int16_t, int16x4_t, 8)
VECTOR(int16_t, int16x8_t, 16)
VECTOR(uint16_t, uint16x4_t, 8)
VECTOR(uint16_t, uint16x8_t, 16)
VECTOR(int32_t, int32x4_t, 16)
VECTOR(uint32_t, uint32x4_t, 16)
typedef struct { uint16_t h[4]; } float16x4_t;

#define EMULATED static inline __attribute__((unused))

/* one value in all lanes; loads and stores */
#define SET(name, vector, type)                                                                   \
    EMULATED vector name(type x) {                                                                \
        vector r;                                                                                 \
        for (unsigned i = 0; i < sizeof r / sizeof r[0]; i++) r[i] = x;                           \
        return r;                                                                                 \
    }
SET(vdupq_n_f32, float32x4_t, float)
SET(vdupq_n_s32, int32x4_t, int32_t)
SET(vdupq_n_u32, uint32x4_t, uint32_t)
SET(vdupq_n_u8, uint8x16_t, uint8_t)
SET(vdup_n_u16, uint16x4_t, uint16_t)
#define LOAD(name, vector, type)                                                                  \
    EMULATED vector name(const type *p) { vector r; memcpy(&r, p, sizeof r); return r; }
LOAD(vld1q_f32, float32x4_t, float)
LOAD(vld1q_u8, uint8x16_t, uint8_t)
LOAD(vld1_u8, uint8x8_t, uint8_t)
LOAD(vld1_s8, int8x8_t, int8_t)
LOAD(vld1_u16, uint16x4_t, uint16_t)
#define STORE(name, vector, type)                                                                 \
    EMULATED void name(type *p, vector a) { memcpy(p, &a, sizeof a); }
STORE(vst1q_f32, float32x4_t, float)
STORE(vst1q_u8, uint8x16_t, uint8_t)
STORE(vst1_s8, int8x8_t, int8_t)
STORE(vst1_u16, uint16x4_t, uint16_t)

/* the same bits as another type */
#define CAST(name, to, from) EMULATED to name(from a) { to r; memcpy(&r, &a, sizeof r); return r; }
CAST(vreinterpretq_f32_s32, float32x4_t, int32x4_t)
CAST(vreinterpretq_f32_u32, float32x4_t, uint32x4_t)
CAST(vreinterpretq_u32_f32, uint32x4_t, float32x4_t)
CAST(vreinterpretq_s8_u8, int8x16_t, uint8x16_t)
CAST(vreinterpretq_s8_s32, int8x16_t, int32x4_t)
CAST(vreinterpret_f16_u16, float16x4_t, uint16x4_t)

/* each lane converted; integers that are narrowed keep their low bits */
#define CONVERT(name, to, from)                                                                   \
    EMULATED to name(from a) { return __builtin_convertvector(a, to); }
CONVERT(vcvtq_f32_s32, float32x4_t, int32x4_t)
CONVERT(vcvtq_f32_u32, float32x4_t, uint32x4_t)
CONVERT(vmovl_s8, int16x8_t, int8x8_t)
CONVERT(vmovl_s16, int32x4_t, int16x4_t)
CONVERT(vmovl_u8, uint16x8_t, uint8x8_t)
CONVERT(vmovl_u16, uint32x4_t, uint16x4_t)
CONVERT(vmovn_s32, int16x4_t, int32x4_t)
CONVERT(vmovn_s16, int8x8_t, int16x8_t)
CONVERT(vmovn_u32, uint16x4_t, uint32x4_t)

#define HALF_OF(name, to, from, first)                                                            \
    EMULATED to name(from a) {                                                                    \
        to r;                                                                                     \
        for (int i = 0; i < 4; i++) r[i] = a[first + i];                                          \
        return r;                                                                                 \
    }
HALF_OF(vget_low_s16, int16x4_t, int16x8_t, 0)
HALF_OF(vget_high_s16, int16x4_t, int16x8_t, 4)
HALF_OF(vget_low_u16, uint16x4_t, uint16x8_t, 0)
HALF_OF(vget_high_u16, uint16x4_t, uint16x8_t, 4)
EMULATED int16x8_t vcombine_s16(int16x4_t low, int16x4_t high) {
    int16x8_t r;
    for (int i = 0; i < 8; i++) r[i] = i < 4 ? low[i] : high[i - 4];
    return r;
}

#define FOUR for (int i = 0; i < 4; i++)
EMULATED uint32x4_t vcgtq_f32(float32x4_t a, float32x4_t b) { return (uint32x4_t)(a > b); }
EMULATED uint32x4_t vcgeq_f32(float32x4_t a, float32x4_t b) { return (uint32x4_t)(a >= b); }
EMULATED float32x4_t vbslq_f32(uint32x4_t mask, float32x4_t a, float32x4_t b) {
    return (float32x4_t)(((uint32x4_t)a & mask) | ((uint32x4_t)b & ~mask));
}
EMULATED float32x4_t vabsq_f32(float32x4_t a) { FOUR a[i] = fabsf(a[i]); return a; }
EMULATED float32x4_t vrndnq_f32(float32x4_t a) { FOUR a[i] = rintf(a[i]); return a; }
EMULATED float32x4_t vfmaq_f32(float32x4_t c, float32x4_t a, float32x4_t b) {
    FOUR c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}
EMULATED float32x4_t vfmsq_f32(float32x4_t c, float32x4_t a, float32x4_t b) {
    FOUR c[i] = fmaf(-a[i], b[i], c[i]);
    return c;
}
/* towards zero; saturating, and 0 of a NaN */
EMULATED int32x4_t vcvtq_s32_f32(float32x4_t a) {
    int32x4_t r;
    FOUR r[i] = a[i] != a[i]        ? 0
                : a[i] >= 0x1p31f   ? INT32_MAX
                : a[i] <= -0x1p31f ? INT32_MIN
                                   : (int32_t)a[i];
    return r;
}
EMULATED float32x4_t vcvt_f32_f16(float16x4_t a) {
    float32x4_t r;
    FOUR {
        int exponent = a.h[i] >> 10 & 31, mantissa = a.h[i] & 1023;
        float f = exponent == 31 ? (mantissa ? NAN : INFINITY)
                  : exponent     ? ldexpf((float)(mantissa + 1024), exponent - 25)
                                 : ldexpf((float)mantissa, -24);
        r[i] = a.h[i] >> 15 ? -f : f;
    }
    return r;
}
/* sums + products of signed bytes, four to a sum */
EMULATED int32x4_t vdotq_s32(int32x4_t sums, int8x16_t a, int8x16_t b) {
    for (int i = 0; i < 16; i++) sums[i / 4] += a[i] * b[i];
    return sums;
}

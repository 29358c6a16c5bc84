/* decoder_simd_portable.h says what each operation is.  SGEN_INTRINSICS names a header that stands in
 * for the compiler's, with which this code can be tested on any processor.  Sums, products and shifts
 * of whole vectors are C's own operators, as gcc and clang have them. */

#ifdef SGEN_INTRINSICS
#include SGEN_INTRINSICS
#else
#include <arm_neon.h>
#endif

typedef struct { float32x4_t v[4]; } vf; /* 16 floats */

#define EACH4 for (int i = 0; i < 4; i++)

INLINE vf vf_set(float x) { vf r; EACH4 r.v[i] = vdupq_n_f32(x); return r; }
INLINE vf vf_load(const float *p) { vf r; EACH4 r.v[i] = vld1q_f32(p + 4 * i); return r; }
INLINE void vf_store(float *p, vf a) { EACH4 vst1q_f32(p + 4 * i, a.v[i]); }
INLINE vf vf_add(vf a, vf b) { EACH4 a.v[i] = a.v[i] + b.v[i]; return a; }
INLINE vf vf_sub(vf a, vf b) { EACH4 a.v[i] = a.v[i] - b.v[i]; return a; }
INLINE vf vf_mul(vf a, vf b) { EACH4 a.v[i] = a.v[i] * b.v[i]; return a; }
INLINE vf vf_div(vf a, vf b) { EACH4 a.v[i] = a.v[i] / b.v[i]; return a; }
/* Not vmaxq_f32, which has it otherwise for NaNs and for zeros of both signs. */
INLINE vf vf_max(vf a, vf b) {
    EACH4 a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
    return a;
}
INLINE vf vf_min(vf a, vf b) {
    EACH4 a.v[i] = vbslq_f32(vcgtq_f32(b.v[i], a.v[i]), a.v[i], b.v[i]);
    return a;
}
INLINE vf vf_abs(vf a) { EACH4 a.v[i] = vabsq_f32(a.v[i]); return a; }
INLINE vf vf_fma(vf a, vf b, vf c) { EACH4 c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]); return c; }
INLINE vf vf_nmadd(vf a, vf b, vf c) { EACH4 c.v[i] = vfmsq_f32(c.v[i], a.v[i], b.v[i]); return c; }
INLINE vf vf_round(vf a) { EACH4 a.v[i] = vrndnq_f32(a.v[i]); return a; }
INLINE vf vf_scale2(vf a, vf n) {
    EACH4 {
        int32x4_t bits = (vcvtq_s32_f32(n.v[i]) + vdupq_n_s32(127)) << 23;
        a.v[i] = a.v[i] * vreinterpretq_f32_s32(bits);
    }
    return a;
}
INLINE vf vf_zero_below(vf a, vf x, float limit) {
    EACH4 a.v[i] = vbslq_f32(vcgeq_f32(x.v[i], vdupq_n_f32(limit)), a.v[i], vdupq_n_f32(0.0f));
    return a;
}
INLINE vf vf_load_first(const float *p, int n, float x) {
    float copy[LANES];
    for (int i = 0; i < LANES; i++) copy[i] = i < n ? p[i] : x;
    return vf_load(copy);
}
INLINE void vf_store_first(float *p, int n, vf a) {
    float copy[LANES];
    vf_store(copy, a);
    memcpy(p, copy, (size_t)n * 4);
}
INLINE vf vf_keep_first(vf a, int n, float x) {
    float copy[LANES];
    vf_store(copy, a);
    return vf_load_first(copy, n, x);
}
INLINE float vf_sum(vf a) {
    float32x4_t s = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
    return (s[0] + s[2]) + (s[1] + s[3]);
}
INLINE float larger(float a, float b) { return a > b ? a : b; }
INLINE float vf_top(vf a) {
    vf b = {{a.v[2], a.v[3], a.v[2], a.v[3]}};
    a = vf_max(a, b);
    b.v[0] = a.v[1];
    float32x4_t s = vf_max(a, b).v[0];
    return larger(larger(s[0], s[2]), larger(s[1], s[3]));
}

INLINE float32x4_t widen_half(uint16x4_t x) { return vcvt_f32_f16(vreinterpret_f16_u16(x)); }
INLINE float half_to_float(uint16_t h) { return widen_half(vdup_n_u16(h))[0]; }
INLINE vf vf_load_half(const uint16_t *p) {
    vf r;
    EACH4 r.v[i] = widen_half(vld1_u16(p + 4 * i));
    return r;
}
INLINE vf vf_load_bfloat(const uint16_t *p) {
    vf r;
    EACH4 r.v[i] = vreinterpretq_f32_u32(vmovl_u16(vld1_u16(p + 4 * i)) << 16);
    return r;
}
INLINE void vf_store_bfloat(uint16_t *p, vf a) {
    EACH4 {
        uint32x4_t bits = vreinterpretq_u32_f32(a.v[i]);
        bits = bits + vdupq_n_u32(0x7FFF) + (bits >> 16 & vdupq_n_u32(1));
        vst1_u16(p + 4 * i, vmovn_u32(bits >> 16));
    }
}
INLINE vf vf_load_i8(const int8_t *p) {
    vf r;
    for (int h = 0; h < 2; h++) {
        int16x8_t x = vmovl_s8(vld1_s8(p + 8 * h));
        r.v[2 * h] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));
        r.v[2 * h + 1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(x)));
    }
    return r;
}
INLINE vf vf_load_u8(const uint8_t *p) {
    vf r;
    for (int h = 0; h < 2; h++) {
        uint16x8_t x = vmovl_u8(vld1_u8(p + 8 * h));
        r.v[2 * h] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(x)));
        r.v[2 * h + 1] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(x)));
    }
    return r;
}
INLINE void vf_store_i8(int8_t *p, vf a) {
    for (int h = 0; h < 2; h++) {
        int16x4_t low = vmovn_s32(vcvtq_s32_f32(a.v[2 * h]));
        int16x4_t high = vmovn_s32(vcvtq_s32_f32(a.v[2 * h + 1]));
        vst1_s8(p + 8 * h, vmovn_s16(vcombine_s16(low, high)));
    }
}

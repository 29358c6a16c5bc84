/* The specification of the other decoder_simd_*.h: each operation as a loop over lanes. */

typedef struct { float lane[LANES]; } vf; /* 16 floats */

#define EACH_LANE for (int i = 0; i < LANES; i++)

INLINE vf vf_set(float x) { vf r; EACH_LANE r.lane[i] = x; return r; }
INLINE vf vf_load(const float *p) { vf r; memcpy(&r, p, sizeof r); return r; }
INLINE void vf_store(float *p, vf a) { memcpy(p, &a, sizeof a); }
INLINE vf vf_add(vf a, vf b) { EACH_LANE a.lane[i] += b.lane[i]; return a; }
INLINE vf vf_sub(vf a, vf b) { EACH_LANE a.lane[i] -= b.lane[i]; return a; }
INLINE vf vf_mul(vf a, vf b) { EACH_LANE a.lane[i] *= b.lane[i]; return a; }
INLINE vf vf_div(vf a, vf b) { EACH_LANE a.lane[i] /= b.lane[i]; return a; }
/* a > b ? a : b, as the x86 instruction has it: b where either is a NaN */
INLINE vf vf_max(vf a, vf b) {
    EACH_LANE a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}
INLINE vf vf_min(vf a, vf b) {
    EACH_LANE a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}
INLINE vf vf_abs(vf a) { EACH_LANE a.lane[i] = fabsf(a.lane[i]); return a; }
/* a * b + c and c - a * b, rounded once */
INLINE vf vf_fma(vf a, vf b, vf c) {
    EACH_LANE a.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return a;
}
INLINE vf vf_nmadd(vf a, vf b, vf c) {
    EACH_LANE a.lane[i] = fmaf(-a.lane[i], b.lane[i], c.lane[i]);
    return a;
}
/* to the nearest integer, ties to even */
INLINE vf vf_round(vf a) { EACH_LANE a.lane[i] = rintf(a.lane[i]); return a; }
/* a * 2^n for whole n from -126 to 127 */
INLINE vf vf_scale2(vf a, vf n) {
    EACH_LANE {
        uint32_t bits = (uint32_t)((int32_t)n.lane[i] + 127) << 23;
        float factor;
        memcpy(&factor, &bits, 4);
        a.lane[i] *= factor;
    }
    return a;
}
/* a where x >= limit, else 0 (also where x is a NaN) */
INLINE vf vf_zero_below(vf a, vf x, float limit) {
    EACH_LANE a.lane[i] = x.lane[i] >= limit ? a.lane[i] : 0.0f;
    return a;
}
/* lanes below n from p, the others x */
INLINE vf vf_load_first(const float *p, int n, float x) {
    vf r;
    EACH_LANE r.lane[i] = i < n ? p[i] : x;
    return r;
}
INLINE void vf_store_first(float *p, int n, vf a) { memcpy(p, &a, (size_t)n * 4); }
/* lanes below n from a, the others x */
INLINE vf vf_keep_first(vf a, int n, float x) {
    EACH_LANE a.lane[i] = i < n ? a.lane[i] : x;
    return a;
}
/* the one tree: halves, then halves of that */
INLINE float vf_sum(vf a) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) a.lane[i] += a.lane[i + half];
    return a.lane[0];
}
INLINE float vf_top(vf a) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
    return a.lane[0];
}

INLINE float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, bits = h & 0x7FFF;
    float f;
    if (bits >= 0x7C00) {
        bits = 0x7F800000 | (bits & 0x3FF) << 13;
    } else if (bits >= 0x400) {
        bits = (bits << 13) + (112u << 23);
    } else {
        f = (float)bits * 0x1p-24f;
        memcpy(&bits, &f, 4);
    }
    bits |= sign;
    memcpy(&f, &bits, 4);
    return f;
}
INLINE vf vf_load_half(const uint16_t *p) {
    vf r;
    EACH_LANE r.lane[i] = half_to_float(p[i]);
    return r;
}
INLINE vf vf_load_bfloat(const uint16_t *p) {
    vf r;
    EACH_LANE r.lane[i] = bfloat_to_float(p[i]);
    return r;
}
INLINE void vf_store_bfloat(uint16_t *p, vf a) { EACH_LANE p[i] = float_to_bfloat(a.lane[i]); }
INLINE vf vf_load_i8(const int8_t *p) { vf r; EACH_LANE r.lane[i] = p[i]; return r; }
INLINE vf vf_load_u8(const uint8_t *p) { vf r; EACH_LANE r.lane[i] = p[i]; return r; }
/* whole numbers from -127 to 127 */
INLINE void vf_store_i8(int8_t *p, vf a) { EACH_LANE p[i] = (int8_t)a.lane[i]; }

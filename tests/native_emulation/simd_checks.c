/* Every operation of decoder_simd.h as a function over arrays, for tests/test_native_simd.py. */
#include "decoder_simd.h"

#define EXPORT __attribute__((visibility("default")))

/* Operation number `op` on a, b, c [16] into out [16]. */
EXPORT void floats(int op, const float *a, const float *b, const float *c, int n, float *out) {
    vf x = vf_load(a), y = vf_load(b), z = vf_load(c), r = vf_set(b[0]);
    switch (op) {
    case 0: r = vf_add(x, y); break;
    case 1: r = vf_sub(x, y); break;
    case 2: r = vf_mul(x, y); break;
    case 3: r = vf_div(x, y); break;
    case 4: r = vf_max(x, y); break;
    case 5: r = vf_min(x, y); break;
    case 6: r = vf_abs(x); break;
    case 7: r = vf_fma(x, y, z); break;
    case 8: r = vf_nmadd(x, y, z); break;
    case 9: r = vf_round(x); break;
    case 10: r = vf_zero_below(x, y, c[0]); break;
    case 11: r = vf_load_first(a, n, b[0]); break;
    case 12: r = vf_keep_first(x, n, b[0]); break;
    case 13: vf_store_first(out, n, x); return;
    case 14: r = vf_set(vf_sum(x)); break;
    case 15: r = vf_set(vf_top(x)); break;
    }
    vf_store(out, r);
}

EXPORT void scale2(const float *a, const float *n, float *out) {
    vf_store(out, vf_scale2(vf_load(a), vf_load(n)));
}
EXPORT void exponential(const float *a, float *out) { vf_store(out, vf_exp(vf_load(a))); }

EXPORT void from_half(const uint16_t *p, float *out, float *single) {
    vf_store(out, vf_load_half(p));
    for (int i = 0; i < LANES; i++) single[i] = half_to_float(p[i]);
}
EXPORT void from_bfloat(const uint16_t *p, float *out, float *single) {
    vf_store(out, vf_load_bfloat(p));
    for (int i = 0; i < LANES; i++) single[i] = bfloat_to_float(p[i]);
}
EXPORT void to_bfloat(const float *p, uint16_t *out, uint16_t *single) {
    vf_store_bfloat(out, vf_load(p));
    for (int i = 0; i < LANES; i++) single[i] = float_to_bfloat(p[i]);
}
EXPORT void from_i8(const int8_t *p, float *out) { vf_store(out, vf_load_i8(p)); }
EXPORT void from_u8(const uint8_t *p, float *out) { vf_store(out, vf_load_u8(p)); }
EXPORT void to_i8(const float *p, int8_t *out) { vf_store_i8(out, vf_load(p)); }

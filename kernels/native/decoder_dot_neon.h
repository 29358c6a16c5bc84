/* decoder_dot_portable.h says what each function is for.
 *
 * One instruction (sdot) adds a row's quad times 4 outputs' signed weights to sums of int32.  Weights
 * of 8 bits are taken as signed, less 128; narrower ones are signed as they are. */

#define DOT_ROWS 4
#define SPECIALIZED INLINE

typedef struct { int32x4_t v[4]; } vi;

INLINE vi vi_set(int32_t x) { vi r; EACH4 r.v[i] = vdupq_n_s32(x); return r; }
INLINE vi vi_add(vi a, vi b) { EACH4 a.v[i] = a.v[i] + b.v[i]; return a; }
INLINE vf vi_float(vi a) { vf r; EACH4 r.v[i] = vcvtq_f32_s32(a.v[i]); return r; }

INLINE int weight_bias(int bits) { return bits == 8 ? 128 : 0; }

INLINE uint8x16_t moved(uint8x16_t x, int n, int mask) {
    x = n >= 0 ? x << (uint8_t)n : x >> (uint8_t)-n;
    return x & vdupq_n_u8((uint8_t)mask);
}

/* Quad j of a packed block, the 16 bytes from `at` on. */
INLINE uint8x16_t packed_quad(const uint8_t *block, int bits, int j, int at) {
    if (bits == 8) return vld1q_u8(block + 64 * j + at) ^ vdupq_n_u8(128);
    uint8x16_t w = moved(vld1q_u8(block + 64 * (j / 2) + at), -4 * (j % 2), 15);
    if (bits == 5) w = w | moved(vld1q_u8(block + 256 + at), 4 - j, 16);
    if (bits == 6) w = w | moved(vld1q_u8(block + 256 + 64 * (j / 4) + at), 4 - 2 * (j % 4), 48);
    return w;
}

INLINE void spread(const uint8_t *block, int bits, uint8_t *bytes) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        EACH4 vst1q_u8(bytes + 64 * j + 16 * i, packed_quad(block, bits, j, 16 * i));
}

INLINE void dot(vi *out, const uint8_t *block, const int8_t *q, int64_t stride, int bits, int first,
                int count, int rows, int packed) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) out[r] = vi_set(0);
#pragma GCC unroll 8
    for (int j = first; j < first + count; j++) {
        int8x16_t w[4];
        EACH4 {
            uint8x16_t bytes = packed ? packed_quad(block, bits, j, 16 * i)
                                      : vld1q_u8(block + 64 * j + 16 * i);
            w[i] = vreinterpretq_s8_u8(bytes);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, q + r * stride + 4 * j, 4);
            int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
            EACH4 out[r].v[i] = vdotq_s32(out[r].v[i], w[i], x);
        }
    }
}

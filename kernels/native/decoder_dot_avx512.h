/* decoder_dot_portable.h says what each function is for.
 *
 * One instruction (VNNI's vpdpbusd) adds a row's quad times 16 outputs' unsigned weights to sums of
 * int32, which hold any number of products here. */

#define DOT_ROWS 8
#define SPECIALIZED INLINE

typedef __m512i vi;

INLINE vi vi_set(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vf vi_float(vi a) { return _mm512_cvtepi32_ps(a); }

INLINE int weight_bias(int bits) { (void)bits; return 0; }

/* Bits of x moved up by n, or down by -n, of which the mask keeps what stays inside its byte. */
INLINE __m512i moved(__m512i x, int n, int mask) {
    x = n >= 0 ? _mm512_slli_epi16(x, (unsigned)n) : _mm512_srli_epi16(x, (unsigned)-n);
    return _mm512_and_si512(x, _mm512_set1_epi8((char)mask));
}

/* Quad j of a packed block. */
INLINE __m512i packed_quad(const uint8_t *block, int bits, int j) {
    if (bits == 8) return _mm512_loadu_si512(block + 64 * j);
    __m512i w = moved(_mm512_loadu_si512(block + 64 * (j / 2)), -4 * (j % 2), 15);
    if (bits == 5)
        w = _mm512_or_si512(w, moved(_mm512_loadu_si512(block + 256), 4 - j, 16));
    if (bits == 6) {
        __m512i top = _mm512_loadu_si512(block + 256 + 64 * (j / 4));
        w = _mm512_or_si512(w, moved(top, 4 - 2 * (j % 4), 48));
    }
    return w;
}

INLINE void spread(const uint8_t *block, int bits, uint8_t *bytes) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) _mm512_storeu_si512(bytes + 64 * j, packed_quad(block, bits, j));
}

INLINE void dot(vi *out, const uint8_t *block, const int8_t *q, int64_t stride, int bits, int first,
                int count, int rows, int packed) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) out[r] = _mm512_set1_epi32(0);
#pragma GCC unroll 8
    for (int j = first; j < first + count; j++) {
        __m512i w = packed ? packed_quad(block, bits, j) : _mm512_loadu_si512(block + 64 * j);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, q + r * stride + 4 * j, 4);
            out[r] = _mm512_dpbusd_epi32(out[r], w, _mm512_set1_epi32(four));
        }
    }
}

/* decoder_dot_portable.h says what each function is for.
 *
 * Unsigned weights are multiplied by signed activations into sums of int16 (vpmaddubsw), which hold
 * 16 products of 4 bits (15 * 127 * 16 < 2^15), 8 of 5 bits or 4 of 6 bits.  Weights of 8 bits are
 * taken as signed, less 128; there |w| is multiplied by q with w's sign: 128 * 127 * 2 < 2^15. */

#define DOT_ROWS 4
#define SPECIALIZED INLINE

typedef struct { __m256i lo, hi; } vi;

INLINE vi vi_set(int32_t x) { __m256i r = _mm256_set1_epi32(x); return (vi){r, r}; }
INLINE vi vi_add(vi a, vi b) {
    return (vi){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
INLINE vf vi_float(vi a) { return (vf){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

INLINE int weight_bias(int bits) { return bits == 8 ? 128 : 0; }

INLINE __m256i load32(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* Bits of x moved up by n, or down by -n, of which the mask keeps what stays inside its byte. */
INLINE __m256i moved(__m256i x, int n, int mask) {
    x = n >= 0 ? _mm256_slli_epi16(x, n) : _mm256_srli_epi16(x, -n);
    return _mm256_and_si256(x, _mm256_set1_epi8((char)mask));
}

/* Quad j of a packed block, the half at `at` (0 or 32). */
INLINE __m256i packed_quad(const uint8_t *block, int bits, int j, int at) {
    if (bits == 8)
        return _mm256_xor_si256(load32(block + 64 * j + at), _mm256_set1_epi8((char)128));
    __m256i w = moved(load32(block + 64 * (j / 2) + at), -4 * (j % 2), 15);
    if (bits == 5) w = _mm256_or_si256(w, moved(load32(block + 256 + at), 4 - j, 16));
    if (bits == 6) {
        __m256i top = load32(block + 256 + 64 * (j / 4) + at);
        w = _mm256_or_si256(w, moved(top, 4 - 2 * (j % 4), 48));
    }
    return w;
}

INLINE void spread(const uint8_t *block, int bits, uint8_t *bytes) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        _mm256_store_si256((__m256i *)(bytes + 64 * j), packed_quad(block, bits, j, 0));
        _mm256_store_si256((__m256i *)(bytes + 64 * j + 32), packed_quad(block, bits, j, 32));
    }
}

/* Keeps the compiler from adding up in another order, which takes more registers than there are. */
INLINE void keep(vi *a) { __asm__("" : "+x"(a->lo), "+x"(a->hi)); }

/* Products of 32 weights and a row's quad, added up in pairs. */
INLINE __m256i pairs(__m256i w, __m256i q, int bits) {
    if (bits == 8) return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
    return _mm256_maddubs_epi16(w, q);
}

INLINE void dot(vi *out, const uint8_t *block, const int8_t *q, int64_t stride, int bits, int first,
                int count, int rows, int packed) {
    const int most = bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; /* quads that int16 holds */
    const int run = count < most ? count : most;
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int start = first; start < first + count; start += run) {
        vi part[DOT_ROWS];
#pragma GCC unroll 8
        for (int j = start; j < start + run; j++) {
            __m256i lo = packed ? packed_quad(block, bits, j, 0) : load32(block + 64 * j);
            __m256i hi = packed ? packed_quad(block, bits, j, 32) : load32(block + 64 * j + 32);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, q + r * stride + 4 * j, 4);
                __m256i x = _mm256_set1_epi32(four);
                vi p = {pairs(lo, x, bits), pairs(hi, x, bits)};
                if (j > start) {
                    p.lo = _mm256_add_epi16(p.lo, part[r].lo);
                    p.hi = _mm256_add_epi16(p.hi, part[r].hi);
                    keep(&p);
                }
                part[r] = p;
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vi p = {_mm256_madd_epi16(part[r].lo, ones), _mm256_madd_epi16(part[r].hi, ones)};
            out[r] = start > first ? vi_add(out[r], p) : p;
        }
    }
}

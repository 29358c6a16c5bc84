/* decoder_simd_portable.h says what each operation is. */

#include <immintrin.h>

typedef struct { __m256 lo, hi; } vf; /* 16 floats */

#define BOTH(op) ((vf){op(a.lo, b.lo), op(a.hi, b.hi)})
#define TRIPLE(op) ((vf){op(a.lo, b.lo, c.lo), op(a.hi, b.hi, c.hi)})

INLINE vf vf_set(float x) { __m256 r = _mm256_set1_ps(x); return (vf){r, r}; }
INLINE vf vf_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a.lo); _mm256_storeu_ps(p + 8, a.hi); }
INLINE vf vf_add(vf a, vf b) { return BOTH(_mm256_add_ps); }
INLINE vf vf_sub(vf a, vf b) { return BOTH(_mm256_sub_ps); }
INLINE vf vf_mul(vf a, vf b) { return BOTH(_mm256_mul_ps); }
INLINE vf vf_div(vf a, vf b) { return BOTH(_mm256_div_ps); }
INLINE vf vf_max(vf a, vf b) { return BOTH(_mm256_max_ps); }
INLINE vf vf_min(vf a, vf b) { return BOTH(_mm256_min_ps); }
INLINE vf vf_abs(vf a) {
    vf b = vf_set(-0.0f);
    return (vf){_mm256_andnot_ps(b.lo, a.lo), _mm256_andnot_ps(b.hi, a.hi)};
}
INLINE vf vf_fma(vf a, vf b, vf c) { return TRIPLE(_mm256_fmadd_ps); }
INLINE vf vf_nmadd(vf a, vf b, vf c) { return TRIPLE(_mm256_fnmadd_ps); }
INLINE vf vf_round(vf a) {
    const int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return (vf){_mm256_round_ps(a.lo, nearest), _mm256_round_ps(a.hi, nearest)};
}
INLINE __m256 scale2_half(__m256 a, __m256 n) {
    __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23)));
}
INLINE vf vf_scale2(vf a, vf n) { return (vf){scale2_half(a.lo, n.lo), scale2_half(a.hi, n.hi)}; }
INLINE vf vf_zero_below(vf a, vf x, float limit) {
    __m256 l = _mm256_set1_ps(limit);
    return (vf){_mm256_and_ps(a.lo, _mm256_cmp_ps(x.lo, l, _CMP_GE_OQ)),
                _mm256_and_ps(a.hi, _mm256_cmp_ps(x.hi, l, _CMP_GE_OQ))};
}
INLINE vf vf_keep_first(vf a, int n, float x) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), other = _mm256_set1_epi32(n);
    __m256 fill = _mm256_set1_ps(x);
    __m256i second = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
    return (vf){_mm256_blendv_ps(fill, a.lo, _mm256_castsi256_ps(_mm256_cmpgt_epi32(other, lane))),
                _mm256_blendv_ps(fill, a.hi, _mm256_castsi256_ps(_mm256_cmpgt_epi32(other, second)))};
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
INLINE float vf_sum(vf v) {
    __m256 eight = _mm256_add_ps(v.lo, v.hi);
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}
INLINE float vf_top(vf v) {
    __m256 eight = _mm256_max_ps(v.lo, v.hi);
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}

INLINE float half_to_float(uint16_t h) { return _cvtsh_ss(h); }
INLINE __m128i load16(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE vf vf_load_half(const uint16_t *p) {
    return (vf){_mm256_cvtph_ps(load16(p)), _mm256_cvtph_ps(load16(p + 8))};
}
INLINE __m256 widen_bfloat(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
INLINE vf vf_load_bfloat(const uint16_t *p) {
    return (vf){widen_bfloat(load16(p)), widen_bfloat(load16(p + 8))};
}
INLINE __m256i narrow_bfloat(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    return _mm256_srli_epi32(bits, 16);
}
INLINE void vf_store_bfloat(uint16_t *p, vf a) {
    __m256i both = _mm256_packus_epi32(narrow_bfloat(a.lo), narrow_bfloat(a.hi));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(both, 0xD8));
}
INLINE vf vf_load_i8(const int8_t *p) {
    __m128i x = load16(p);
    return (vf){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
}
INLINE vf vf_load_u8(const uint8_t *p) {
    __m128i x = load16(p);
    return (vf){_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(x, 8)))};
}
INLINE void vf_store_i8(int8_t *p, vf a) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    words = _mm256_permute4x64_epi64(words, 0xD8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)p, bytes);
}

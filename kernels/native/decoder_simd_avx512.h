/* decoder_simd_portable.h says what each operation is.  SGEN_INTRINSICS names a header that stands in
 * for the compiler's, with which this code can be tested on any processor. */

#ifdef SGEN_INTRINSICS
#include SGEN_INTRINSICS
#else
#include <immintrin.h>
#endif

typedef __m512 vf; /* 16 floats */

INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_nmadd(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, 8); } /* nearest, no exceptions */
INLINE vf vf_scale2(vf a, vf n) {
    __m512i bits = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_mul_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23)));
}
INLINE vf vf_zero_below(vf a, vf x, float limit) {
    __mmask16 whole = _mm512_cmp_ps_mask(x, vf_set(limit), _CMP_GE_OQ);
    return _mm512_mask_mov_ps(vf_set(0.0f), whole, a);
}
INLINE __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }
INLINE vf vf_load_first(const float *p, int n, float x) {
    return _mm512_mask_loadu_ps(vf_set(x), first_lanes(n), p);
}
INLINE void vf_store_first(float *p, int n, vf a) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }
INLINE vf vf_keep_first(vf a, int n, float x) {
    return _mm512_mask_mov_ps(vf_set(x), first_lanes(n), a);
}
/* Lane i of these is lane i + 8, 4, 2 or 1 of a, for the i below that number. */
INLINE vf upper8(vf a) { return _mm512_shuffle_f32x4(a, a, 0x4E); }
INLINE vf upper4(vf a) { return _mm512_shuffle_f32x4(a, a, 0xB1); }
INLINE vf upper2(vf a) { return _mm512_permute_ps(a, 0x4E); }
INLINE vf upper1(vf a) { return _mm512_permute_ps(a, 0xB1); }
INLINE float vf_sum(vf a) {
    a = vf_add(a, upper8(a));
    a = vf_add(a, upper4(a));
    a = vf_add(a, upper2(a));
    return _mm512_cvtss_f32(vf_add(a, upper1(a)));
}
INLINE float vf_top(vf a) {
    a = vf_max(a, upper8(a));
    a = vf_max(a, upper4(a));
    a = vf_max(a, upper2(a));
    return _mm512_cvtss_f32(vf_max(a, upper1(a)));
}

INLINE float half_to_float(uint16_t h) { return _cvtsh_ss(h); }
INLINE __m128i load16(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE __m256i load32(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE vf vf_load_half(const uint16_t *p) { return _mm512_cvtph_ps(load32(p)); }
INLINE vf vf_load_bfloat(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load32(p)), 16));
}
INLINE void vf_store_bfloat(uint16_t *p, vf a) {
    __m512i bits = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}
INLINE vf vf_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(p)));
}
INLINE vf vf_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load16(p)));
}
INLINE void vf_store_i8(int8_t *p, vf a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}

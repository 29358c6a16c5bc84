/* Gumbel noise from a hash of (seed, position, token), and the draw that it decides. */
#include "sampling.h"

#define GOLDEN 0x9E3779B97F4A7C15u
#define LN2 0.6931471805599453
#define SQRT_HALF 0.7071067811865476
#define MOST_NOISE 22.9             /* above the greatest value, 33 log 2 to within 1e-9 */
#define MARGIN 1e-3f                /* above the rounding of what is compared roughly */

static uint64_t mix64(uint64_t x)
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

INLINE uint32_t fmix32(uint32_t x)
{
    x = (x ^ x >> 16) * 0x85EBCA6Bu;
    x = (x ^ x >> 13) * 0xC2B2AE35u;
    return x ^ x >> 16;
}

uint64_t noise_key(uint64_t seed, int64_t position)
{
    return mix64(mix64(seed + GOLDEN) + ((uint64_t)position + 1) * GOLDEN);
}

INLINE uint32_t noise_bits(uint64_t key, uint32_t token)
{
    return fmix32(fmix32(token ^ (uint32_t)key) + (uint32_t)(key >> 32));
}

/* Natural logarithm of a normal number: `natural_log` of sampling.py. */
static double natural_log(double y)
{
    uint64_t bits;
    memcpy(&bits, &y, sizeof bits);
    int32_t exponent = (int32_t)(bits >> 52) - 1022;
    bits = (bits & 0x000FFFFFFFFFFFFFu) | (uint64_t)1022 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m < SQRT_HALF) {
        m = m + m;
        exponent -= 1;
    }
    double s = (m - 1.0) / (m + 1.0), q = s * s, p = 1.0 / 21.0;
    for (int k = 19; k > 0; k -= 2)
        p = p * q + 1.0 / k;
    return exponent * LN2 + (s + s) * p;
}

double noise_of(uint32_t bits)
{
    return -natural_log(-natural_log((bits + 0.5) * 0x1p-32));
}

/* No less than the noise of some bits, where t = 2 c + (0 or 1) is 2^32 - 1 - bits: noise is below
 * log(2^32 / (t + 1/2)), and for log2(c) the exponent and mantissa of c, side by side, are no more
 * than 2^23 (log2(c) + 127). */
INLINE float noise_bound(uint32_t bits)
{
    float c = (float)(int32_t)(~bits >> 1);
    int32_t linear;
    memcpy(&linear, &c, sizeof linear);
    return 0.6931472f * (158.0f - (float)linear * 0x1p-23f);
}

/* The token with the greatest logit over temperature plus noise, of those that are left. */
uint32_t draw(const float *x, int64_t n, float top, float temperature, Cut cut, float min_z,
              uint64_t key)
{
    double best = -INFINITY;
    uint32_t chosen = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t size = n - start < BLOCK ? n - start : BLOCK;
        float highest = block_max(x + start, size);
        if (highest < cut.value || scaled(highest, top, temperature) + MOST_NOISE < best - MARGIN)
            continue;
        float z[BLOCK], bound[BLOCK];
        for (int64_t j = 0; j < size; j++) {
            z[j] = scaled(x[start + j], top, temperature);
            bound[j] = z[j] + noise_bound(noise_bits(key, (uint32_t)(start + j))) + MARGIN;
        }
        if (block_max(bound, size) < best)
            continue;
        for (int64_t j = 0; j < size; j++) {
            uint32_t id = (uint32_t)(start + j);
            if (bound[j] < best || !keeps(cut, x[id], id) || z[j] < min_z)
                continue;
            double sum = z[j] + noise_of(noise_bits(key, id));
            if (sum > best) {
                best = sum;
                chosen = id;
            }
        }
    }
    return chosen;
}

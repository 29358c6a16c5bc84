/* Choosing tokens in C: what runtime/sampling.py does with numpy, and the same tokens.
 *
 * Every number that a decision hangs on comes from the same IEEE operations in the same order in
 * both, so products and sums must not be fused (-ffp-contract=off).  Sums of weights are exact in
 * any order.  What is only used to pass over hopeless tokens may be rough, and errs on their side. */
#ifndef SGEN_SAMPLING_H
#define SGEN_SAMPLING_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define BLOCK 64            /* tokens that are looked at, or passed over, together */

/* How one request chooses; the arrays are the caller's. */
typedef struct {
    uint64_t seed;
    double top_p;               /* 1: all */
    int64_t top_k;              /* 0: all */
    int64_t num_bias, num_seen, num_output;
    const int64_t *bias_ids;
    const float *bias;
    const int64_t *seen;        /* ids in prompt and output */
    const int64_t *output;      /* ids in the output, and how often */
    const float *counts;
    float temperature;          /* 0: greedy */
    float min_z;                /* log(min_p); -inf: all */
    float repetition, frequency, presence;
} Settings;

/* One token to choose; `allowed` is NULL or a bit for each token, [ceil(n / 32)]. */
typedef struct {
    int64_t row, position;
    const Settings *settings;
    const uint32_t *allowed;
} Pick;

enum { NOT_FINITE = -1, NONE_ALLOWED = -2, OUT_OF_RANGE = -3 };

typedef struct {
    uint32_t key, id;           /* a larger key is a larger logit; equals have one key */
    double mass;
} Item;

/* Which logits are left: those above `value`, and of those equal to it the ids up to `last`. */
typedef struct {
    float value;
    uint32_t last;
} Cut;

/* sampling_noise.c */
double noise_of(uint32_t bits);
uint64_t noise_key(uint64_t seed, int64_t position);
uint32_t draw(const float *x, int64_t n, float top, float temperature, Cut cut, float min_z,
              uint64_t key);

/* sampling_cut.c; room for n items and n / BLOCK + 1 more */
Cut top_k_cut(const float *x, int64_t n, int64_t k, Item *items);
Cut top_p_cut(const float *x, int64_t n, float top, float temperature, double top_p, Cut cut,
              Item *items);

INLINE float of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE int keeps(Cut cut, float x, uint32_t id)
{
    return x > cut.value || (x == cut.value && id <= cut.last);
}

/* Logit over temperature, the largest at 0. */
INLINE float scaled(float x, float top, float temperature) { return (x - top) / temperature; }

/* The largest of some numbers, none of which is NaN: compared as integers, whose maximum does not
 * depend on the order, so that the compiler may use vectors. */
INLINE float block_max(const float *x, int64_t size)
{
    int32_t best = INT32_MIN;
    for (int64_t i = 0; i < size; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits ^= bits >> 31 & 0x7FFFFFFF;
        best = bits > best ? bits : best;
    }
    return of_bits((uint32_t)(best ^ (best >> 31 & 0x7FFFFFFF)));
}

#endif

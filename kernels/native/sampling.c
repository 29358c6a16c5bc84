/* A token for each row of logits; see sampling.h. */
#include "sampling.h"

#define CHUNK 1024                  /* tokens of which the largest is known before its place */
#define LANES 32                    /* bits of a word of a mask */

/* The largest of the logits that are allowed, and whether all logits are finite or -inf. */
INLINE float chunk_max(const float *x, int64_t n, const uint32_t *allowed, int32_t *broken)
{
    float most[LANES], best = -INFINITY;
    int32_t bad[LANES] = {0};
    for (int j = 0; j < LANES; j++)
        most[j] = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        uint32_t word = allowed ? allowed[i / LANES] : UINT32_MAX;
        for (int j = 0; j < LANES; j++) {
            float v = x[i + j];
            bad[j] |= !(v <= FLT_MAX);
            if (allowed)
                v = word >> j & 1 ? v : -INFINITY;
            most[j] = v > most[j] ? v : most[j];
        }
    }
    for (; i < n; i++) {
        bad[0] |= !(x[i] <= FLT_MAX);
        if ((!allowed || allowed[i / 32] >> i % 32 & 1) && x[i] > best)
            best = x[i];
    }
    for (int j = 0; j < LANES; j++) {
        best = most[j] > best ? most[j] : best;
        *broken |= bad[j];
    }
    return best;
}

/* The first of the largest logits that are allowed, or NOT_FINITE, or NONE_ALLOWED. */
INLINE int64_t find_best(const float *x, int64_t n, const uint32_t *allowed)
{
    float best = -INFINITY;
    int64_t chunk = -1;
    int32_t broken = 0;
    for (int64_t start = 0; start < n; start += CHUNK) {
        const uint32_t *words = allowed ? allowed + start / 32 : NULL;
        float most = chunk_max(x + start, n - start < CHUNK ? n - start : CHUNK, words, &broken);
        if (most > best) {
            best = most;
            chunk = start;
        }
    }
    if (broken)
        return NOT_FINITE;
    if (chunk < 0)
        return NONE_ALLOWED;
    while (x[chunk] != best || (allowed && !(allowed[chunk / 32] >> chunk % 32 & 1)))
        chunk++;
    return chunk;
}

static void adjust(const Settings *s, float *x)
{
    for (int64_t i = 0; i < s->num_bias; i++)
        x[s->bias_ids[i]] += s->bias[i];
    for (int64_t i = 0; i < s->num_seen; i++) {
        float *value = &x[s->seen[i]];
        *value = *value < 0.0f ? *value * s->repetition : *value / s->repetition;
    }
    for (int64_t i = 0; i < s->num_output; i++)
        x[s->output[i]] -= s->counts[i] * s->frequency + s->presence;
}

/* Give up the logits of what is not allowed. */
static void mask(const float *x, int64_t n, const uint32_t *allowed, float *out)
{
    for (int64_t start = 0; start < n; start += 32) {
        uint32_t word = allowed[start / 32];
        int64_t size = n - start < 32 ? n - start : 32;
        for (int64_t j = 0; j < size; j++)
            out[start + j] = word >> j & 1 ? x[start + j] : -INFINITY;
    }
}

/* `changed`: room for n logits. */
static int64_t choose(const float *x, int64_t n, const Pick *pick, float *changed, Item *items)
{
    const Settings *s = pick->settings;
    if (s->num_bias || s->num_seen || s->num_output) {
        if (find_best(x, n, NULL) == NOT_FINITE)
            return NOT_FINITE;
        memcpy(changed, x, (size_t)n * sizeof *x);
        adjust(s, changed);
        x = changed;
        if (find_best(x, n, NULL) == NOT_FINITE)
            return OUT_OF_RANGE;
    }
    int64_t best = pick->allowed ? find_best(x, n, pick->allowed) : find_best(x, n, NULL);
    if (best < 0 || s->temperature == 0.0f)
        return best;
    float top = x[best];
    Cut cut = {-FLT_MAX, UINT32_MAX};
    if (pick->allowed) {
        mask(x, n, pick->allowed, changed);
        x = changed;
    }
    if (0 < s->top_k && s->top_k < n) {
        Cut found = top_k_cut(x, n, s->top_k, items);
        cut = found.value > cut.value ? found : cut;
    }
    if (s->top_p < 1.0)
        cut = top_p_cut(x, n, top, s->temperature, s->top_p, cut, items);
    return draw(x, n, top, s->temperature, cut, s->min_z, noise_key(s->seed, pick->position));
}

/* A token for each pick from its row of logits [..][n], n < 2^19, or a code below 0; 0 if there is
 * no memory. */
EXPORT int32_t sm_choose(const float *logits, int64_t n, const Pick *picks, int64_t count,
                         int64_t *tokens)
{
    float *changed = malloc((size_t)n * sizeof *changed);
    Item *items = malloc(((size_t)n + (size_t)n / BLOCK + 1) * sizeof *items);
    int32_t ready = changed && items;
    for (int64_t i = 0; ready && i < count; i++)
        tokens[i] = choose(logits + picks[i].row * n, n, &picks[i], changed, items);
    free(changed);
    free(items);
    return ready;
}

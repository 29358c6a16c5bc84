/* Which tokens top-k and top-p leave, as the least logit among them. */
#include "sampling.h"

INLINE uint32_t key_of(float x)
{
    float positive_zero = x + 0.0f; /* -0 and 0 are equals */
    uint32_t bits;
    memcpy(&bits, &positive_zero, sizeof bits);
    return bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
}

INLINE float value_of(uint32_t key)
{
    return of_bits(key ^ (key >> 31 ? 0x80000000u : 0xFFFFFFFFu));
}

/* Going down from the largest key, where the mass first comes to `target`: the items of that key
 * are moved to the front, in their order.  Returns how many they are; `above`: the mass before. */
static int64_t select_items(Item *items, int64_t n, double target, double *above)
{
    static const int shifts[3] = {21, 10, 0};
    double sum = 0.0;
    for (int level = 0; level < 3; level++) {
        double heap[2048] = {0};
        int shift = shifts[level], mask = level < 2 ? 2047 : 1023;
        for (int64_t i = 0; i < n; i++)
            heap[items[i].key >> shift & mask] += items[i].mass;
        int at = mask;
        while (at > 0 && sum + heap[at] < target)
            sum += heap[at--];
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++)
            if ((int)(items[i].key >> shift & mask) == at)
                items[kept++] = items[i];
        n = kept;
    }
    *above = sum;
    return n;
}

/* The items of the logits that are at least `least`, in rising order of ids. */
static int64_t collect(const float *x, int64_t n, float least, Item *items)
{
    int64_t count = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t end = start + BLOCK < n ? start + BLOCK : n;
        if (block_max(x + start, end - start) < least)
            continue;
        for (int64_t i = start; i < end; i++)
            if (x[i] >= least)
                items[count++] = (Item){key_of(x[i]), (uint32_t)i, 1.0};
    }
    return count;
}

/* Everything at least as large as the k-th largest of x, 1 <= k <= n. */
Cut top_k_cut(const float *x, int64_t n, int64_t k, Item *items)
{
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
    float least = -INFINITY;
    double above;
    if (k <= blocks) { /* k blocks have a token as large as the k-th of their largest */
        for (int64_t b = 0; b < blocks; b++) {
            int64_t size = n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK;
            items[b] = (Item){key_of(block_max(x + b * BLOCK, size)), 0, 1.0};
        }
        select_items(items, blocks, (double)k, &above);
        least = value_of(items[0].key);
    }
    select_items(items, collect(x, n, least, items), (double)k, &above);
    return (Cut){value_of(items[0].key), UINT32_MAX};
}

/* e^z for z <= 0, to about 1e-7 of it, and to a multiple of 2^-34: `weights_of` of sampling.py. */
INLINE void weights_of(const float *z, int64_t size, double *out)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float e[BLOCK]; /* each loop is simple enough for the compiler to use vectors */
    for (int64_t j = 0; j < size; j++)
        e[j] = z[j] > -30.0f ? z[j] : -30.0f;
    for (int64_t j = 0; j < size; j++) {
        float power = (e[j] * 1.442695041f + magic) - magic;
        float r = (e[j] - power * 0.693359375f) - power * -2.1219444e-4f;
        float p = r * (1.0f / 720.0f) + (1.0f / 120.0f);
        p = p * r + (1.0f / 24.0f);
        p = p * r + (1.0f / 6.0f);
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        e[j] = p * of_bits((uint32_t)((int32_t)power + 127) << 23);
    }
    for (int64_t j = 0; j < size; j++)
        out[j] = ((double)e[j] + 393216.0) - 393216.0; /* 1.5 * 2^18 */
}

/* The sum of the weights that the cut leaves; exact, hence the same in any order. */
static double total_weight(const float *x, int64_t n, float top, float temperature, float least)
{
    double sums[BLOCK] = {0}, total = 0.0;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t size = n - start < BLOCK ? n - start : BLOCK;
        float z[BLOCK];
        double weights[BLOCK];
        if (block_max(x + start, size) < least)
            continue;
        for (int64_t j = 0; j < size; j++)
            z[j] = scaled(x[start + j], top, temperature);
        weights_of(z, size, weights);
        for (int64_t j = 0; j < size; j++)
            sums[j] += x[start + j] < least ? 0.0 : weights[j];
    }
    for (int j = 0; j < BLOCK; j++)
        total += sums[j];
    return total;
}

/* Give items their weights; returns the sum. */
static double weigh(const float *x, float top, float temperature, Item *items, int64_t count)
{
    double sum = 0.0;
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t size = count - start < BLOCK ? count - start : BLOCK;
        float z[BLOCK];
        double weights[BLOCK];
        for (int64_t j = 0; j < size; j++)
            z[j] = scaled(x[items[start + j].id], top, temperature);
        weights_of(z, size, weights);
        for (int64_t j = 0; j < size; j++)
            sum += items[start + j].mass = weights[j];
    }
    return sum;
}

/* In falling order, lower ids first among equals: up to and with the token at which the weights
 * of what `cut` leaves add up to top_p of all.  Where the likely ones come to that, the others
 * need not be looked at. */
Cut top_p_cut(const float *x, int64_t n, float top, float temperature, double top_p, Cut cut,
              Item *items)
{
    static const float likely[] = {-4.0f, -8.0f, -16.0f, -INFINITY};
    double target = top_p * total_weight(x, n, top, temperature, cut.value), mass = -1.0, above;
    int64_t count = 0, last = 0;
    for (int i = 0; i < 4 && mass < target; i++) {
        float least = top + likely[i] * temperature;
        count = collect(x, n, least > cut.value ? least : cut.value, items);
        mass = weigh(x, top, temperature, items, count);
    }
    int64_t equals = select_items(items, count, target, &above);
    while (last + 1 < equals && (above += items[last].mass) < target)
        last++;
    return (Cut){value_of(items[0].key), items[last].id};
}

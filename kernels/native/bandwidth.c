/* How fast this machine reads memory: a sum over a buffer, loaded in order.
 *
 * The loop is one vector addition for each vector loaded, so memory is what it waits for. */
#include <stdint.h>

/* The sum of `count` words, modulo 2^64. */
__attribute__((visibility("default"))) uint64_t sum_words(const uint64_t *words, int64_t count)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += words[i];
    return sum;
}

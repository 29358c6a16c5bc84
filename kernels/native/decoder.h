/* The decoder on a CPU: what its files share.
 *
 * Weights are integers with scales, activations are quantized to int8 per row and group of 32, sums
 * of a group are exact integers, and what adds the groups up is fp32 in one order.  A row's bits
 * depend neither on the other rows, nor on the number of threads, nor on the instruction set. */
#ifndef SGEN_DECODER_H
#define SGEN_DECODER_H

#include "decoder_simd.h"
#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))
#define TILE 16     /* outputs that lie side by side in a packed matrix */
#define GROUP 32    /* activations that share a scale */
#define SUPER 256   /* weights of a super-block */
#define PAGE 16     /* tokens of a page of the cache */

/* The next `bytes` of `memory`, aligned; with no memory yet, only what would be used is counted. */
INLINE void *take(char *memory, size_t *used, size_t bytes) {
    void *p = memory ? memory + *used : NULL;
    *used += (bytes + 63) & ~(size_t)63;
    return p;
}

/* ---- a pool of threads (decoder_pool.c) --------------------------------------------------- */

typedef struct Pool Pool;
/* One of the `count` tasks of a run; `thread` is from 0 to pool_threads - 1. */
typedef void (*Task)(void *context, int64_t index, int thread);

/* Do tasks 0 to count - 1, in any order, on whichever thread is free; returns when all are done. */
void pool_run(Pool *pool, int64_t count, Task task, void *context);
int pool_threads(const Pool *pool);

/* ---- packed matrices (decoder_linear.c) ----------------------------------------------------
 *
 * A matrix of `rows` outputs by `columns` inputs is stored in tiles of 16 outputs, padded with zeros
 * behind the last.  A tile of integers (bits 4, 5, 6, 8; columns is a multiple of 32) is a sequence
 * of blocks of 32 columns.  A block's integers, unsigned, from which `zero` is subtracted:
 *
 *   quad j (0 to 7) is the 64 bytes [16 outputs][4 columns] of columns 4 j to 4 j + 3.
 *   bits 8: the 8 quads.
 *   bits 4, 5, 6: 4 x 64 bytes, of which number i has quad 2 i in its low nibbles and quad 2 i + 1 in
 *           its high ones; then, for 5 bits, 64 bytes whose bit j is the fifth bit of quad j; for 6
 *           bits, 2 x 64 bytes: bits 2 i and 2 i + 1 of number h are the top two bits of quad 4 h + i.
 *
 * SCALE_HALF: behind each block's integers come fp16 scales [16 outputs], and, if has_min, fp16
 * minima [16]: weight = scale * (integer - zero) + minimum.  `group` is 32.
 * SCALE_SUPER: columns is a multiple of 256; each run of 8 blocks begins with fp16 d [16] and, if
 * has_min, fp16 dmin [16]; behind each block's integers come its 8-bit scales [32 / group][16]
 * (signed; never above 127) and, if has_min, unsigned 8-bit minima [32 / group][16]:
 * weight = d * scale * (integer - zero) - dmin * minimum.
 *
 * Floats (FLOAT_*): a tile is [columns][16 outputs], for any number of columns. */
enum { FLOAT_HALF = 16, FLOAT_BFLOAT = 17, FLOAT_SINGLE = 32 };
enum { SCALE_HALF = 0, SCALE_SUPER = 1 };

typedef struct {
    int32_t rows, columns;
    int32_t bits;           /* 4, 5, 6, 8, or FLOAT_* */
    int32_t group;          /* weights of one scale: 32, or with SCALE_SUPER 32 or 16 */
    int32_t zero;           /* 0 or a power of two */
    int32_t scale;          /* SCALE_* */
    int32_t has_min;
    int32_t reserved;
    const uint8_t *data;    /* 64-byte aligned */
    const float *bias;      /* fp32 [rows] or NULL */
} Matrix;

INLINE int is_float(const Matrix *m) { return m->bits >= FLOAT_HALF; }

/* Rows of a linear's input, all as fp32 and, where a matrix of integers reads them, quantized:
 * x = q * scale (nearest, ties to even, q from -127 to 127).  Behind the last row lies memory for
 * SPARE_ROWS more: what is in there is read, and nothing comes of it. */
#define SPARE_ROWS 7
typedef struct {
    int32_t columns;
    float *x;                       /* [count][columns] */
    int8_t *q;                      /* [count][columns] */
    float *scale;                   /* [count][columns / 32]: the largest |x| of the group / 127 */
    int32_t *sum16, *sum32;         /* [count][columns / 16], [count][columns / 32]: of q */
    float *scaled16, *scaled32;     /* scale * sum */
} Rows;

/* y[r][j] (+)= sum over k of x[r][k] * weight[j][k], + bias[j]: the outputs of all `matrices`
 * side by side, for rows 0 to count - 1 of x; y is [count][stride].  With `add`, added to y. */
void linear(Pool *pool, const Matrix *const *matrices, int num_matrices, const Rows *x,
            int64_t count, float *y, int64_t stride, int add);
/* Row j of a matrix as fp32 [columns]. */
void matrix_row(const Matrix *m, int64_t j, float *out);

/* ---- what is done to single rows (decoder_rows.c) ------------------------------------------ */

/* Fill all of row r from its x. */
void quantize_row(const Rows *rows, int64_t r);
void rms_norm(const float *x, const float *weight, float eps, int64_t n, float *out);
void silu_mul(const float *gate, const float *up, int64_t n, float *out);
/* Turns dimensions (i, i + half) of a head by the angle whose cosine and sine are given. */
void rope(float *head, const float *cosine, const float *sine, int half);

/* ---- keys, values and attention (decoder_attention.c) --------------------------------------
 *
 * Layer, page and KV head have one block: keys as [D][16 tokens], values as [16 tokens][D]; with
 * KV_INT8 (q from -127 to 127, nearest) then fp32 scales of the keys [16] and of the values [16], one
 * for each token.  Blocks lie as [layer][page][KV head]. */
enum { KV_SINGLE = 0, KV_BFLOAT = 1, KV_INT8 = 2 };

typedef struct {
    int32_t kind, layers, heads, dim;   /* KV heads; dim is a multiple of 16, 256 at most */
    int64_t pages;
    uint8_t *data;                      /* 64-byte aligned */
} KV;

/* A step; as in runtime/batch.py. */
typedef struct {
    int64_t num_tokens, num_requests, max_pages, num_logits;
    const int64_t *tokens, *positions, *slots;          /* [T] */
    const int32_t *starts;                              /* cu_seqlens_q [B + 1] */
    const int32_t *page_table;                          /* [B][max_pages] */
    const int32_t *seq_lens;                            /* [B] */
    const int64_t *logit_rows;                          /* [R] */
} Step;

int64_t kv_block_bytes(const KV *kv);
/* Write one token's keys and values [heads][dim] at a slot of a layer. */
void kv_write(const KV *kv, int layer, int64_t slot, const float *k, const float *v);

/* The host's decision, once a step, of which rows read which pages together. */
typedef struct AttentionPlan AttentionPlan;
AttentionPlan *attention_plan(const KV *kv, const Step *step, int query_heads, int window,
                              int threads);             /* window 0: none; NULL: no memory */
void attention_free(AttentionPlan *plan);
/* q [T][stride], of which the first query_heads * dim are the queries, rotated already;
 * out [T][query_heads * dim]; causal. */
void attention(Pool *pool, AttentionPlan *plan, int layer, const float *q, int64_t stride,
               float scale, float *out);

#endif

/* Products of packed matrices and rows: see decoder.h for the formats.
 *
 * The order of a row's sum is the same in every code path.  From 0, for each group of weights with
 * one scale, in order: sum = fma(the group's exact integer sum, scale of the weights * scale of the
 * row's group, sum), then, where there are minima, sum = fma(minimum, scaled sum of the row's group,
 * sum).  Float matrices: sum = fma(x[k], weight[k], sum), column by column.  Then the bias is added,
 * then what y holds.
 *
 * A task is some tiles times some rows.  One or two rows read a matrix as it is packed, for then
 * memory is the limit; for more, each block is spread to a byte a weight, in the nearest cache, for
 * all rows of a pass. */
#include "decoder.h"

#if defined(SGEN_AVX512)
#include "decoder_dot_avx512.h"
#elif defined(SGEN_AVX2)
#include "decoder_dot_avx2.h"
#elif defined(SGEN_NEON)
#include "decoder_dot_neon.h"
#else
#include "decoder_dot_portable.h"
#endif

enum {
    PASS_ROWS = 16,     /* rows of a pass, a multiple of DOT_ROWS: their quads stay in the cache */
    TASK_ROWS = 64,     /* rows of a task, a multiple of PASS_ROWS */
    TASK_TILES = 8,     /* most tiles of a task that has many rows */
    FLOAT_ROWS = 4,     /* rows at once with float weights */
    AHEAD = 1024,       /* bytes from what is read to what is fetched: beyond a page, hardware stops */
    TASKS = 4,          /* of a thread, at least: whoever is late gets fewer */
};

/* ---- packed integers ----------------------------------------------------------------------- */

INLINE int kinds(const Matrix *m) { return m->has_min ? 2 : 1; }

static const uint8_t *tile_data(const Matrix *m, int64_t tile) {
    const int64_t k = m->columns;
    if (is_float(m)) return m->data + tile * k * TILE * (m->bits == FLOAT_SINGLE ? 4 : 2);
    const int64_t integers = k / GROUP * 64 * m->bits, scales = TILE * kinds(m);
    if (m->scale == SCALE_HALF) return m->data + tile * (integers + k / GROUP * 2 * scales);
    return m->data + tile * (integers + k / m->group * scales + k / SUPER * 2 * scales);
}

/* A walk along the blocks of a tile, which begins at the start of a run of super-blocks. */
typedef struct {
    const uint8_t *at;  /* the next block; between next_block and its last scales, those */
    vf d, m;            /* of a run of super-blocks: d and -dmin */
} Walk;

/* The integers of the walk's block number b. */
INLINE const uint8_t *next_block(Walk *walk, const Matrix *m, int64_t b, int bits) {
    if (m->scale == SCALE_SUPER && b % (SUPER / GROUP) == 0) {
        walk->d = vf_load_half((const uint16_t *)walk->at);
        walk->at += 2 * TILE;
        if (m->has_min) {
            walk->m = vf_mul(vf_load_half((const uint16_t *)walk->at), vf_set(-1.0f));
            walk->at += 2 * TILE;
        }
    }
    const uint8_t *integers = walk->at;
    for (int line = 0; line <= bits; line++) __builtin_prefetch(walk->at + AHEAD + 64 * line);
    walk->at += 64 * bits;
    return integers;
}

/* The scales and minima of number `part` of the block's `parts` groups, taken in order. */
INLINE void block_scales(Walk *walk, const Matrix *m, int part, int parts, vf *d, vf *min) {
    const uint8_t *p = walk->at;
    *min = vf_set(0.0f);
    if (m->scale == SCALE_HALF) {
        *d = vf_load_half((const uint16_t *)p);
        if (m->has_min) *min = vf_load_half((const uint16_t *)(p + 2 * TILE));
        walk->at += 2 * TILE * kinds(m);
        return;
    }
    *d = vf_mul(walk->d, vf_load_i8((const int8_t *)p + TILE * part));
    if (m->has_min) *min = vf_mul(walk->m, vf_load_u8(p + TILE * (parts + part)));
    if (part == parts - 1) walk->at += TILE * parts * kinds(m);
}

/* Keeps the compiler from holding a whole block in registers, which are needed for the sums. */
INLINE void reload(const uint8_t *bytes) { __asm__ volatile("" : : "r"(bytes) : "memory"); }

/* ---- some rows times a tile ----------------------------------------------------------------- */

/* sums[0 to sets * rows - 1] = the products of rows `row` on and a tile. */
SPECIALIZED void multiply(const Matrix *m, const Rows *x, const uint8_t *tile, int64_t row,
                          float (*sums)[TILE], int bits, int group, int rows, int sets, int packed) {
    const int parts = GROUP / group, has_min = m->has_min, zero = m->zero - weight_bias(bits);
    const int64_t stride = m->columns, scales = stride / GROUP, groups = stride / group;
    const int8_t *q = x->q + row * stride;
    const float *scale = x->scale + row * scales;
    const float *scaled_sum = (group == GROUP ? x->scaled32 : x->scaled16) + row * groups;
    const int32_t *whole_sum = (group == GROUP ? x->sum32 : x->sum16) + row * groups;
    _Alignas(64) uint8_t bytes[GROUP * TILE];
    Walk walk = {tile, vf_set(0.0f), vf_set(0.0f)};
    vf sum[PASS_ROWS];
    for (int r = 0; r < sets * rows; r++) sum[r] = vf_set(0.0f);
    for (int64_t b = 0; b < scales; b++) {
        const uint8_t *block = next_block(&walk, m, b, bits);
        if (!packed) {
            spread(block, bits, bytes);
            block = bytes;
        }
#pragma GCC unroll 2
        for (int part = 0; part < parts; part++) {
            const int64_t g = b * parts + part;
            vf d, min;
            block_scales(&walk, m, part, parts, &d, &min);
#pragma GCC unroll 1
            for (int set = 0; set < sets; set++) {
                const int64_t first = set * rows;
                vi whole[DOT_ROWS];
                if (!packed) reload(bytes);
                dot(whole, block, q + first * stride + GROUP * b, stride, bits, part * 8 / parts,
                    8 / parts, rows, packed);
                if (zero)
                    for (int r = 0; r < rows; r++)
                        whole[r] = vi_add(whole[r], vi_set(-zero * whole_sum[(first + r) * groups + g]));
                for (int r = 0; r < rows; r++) {
                    const vf factor = vf_mul(d, vf_set(scale[(first + r) * scales + b]));
                    sum[first + r] = vf_fma(vi_float(whole[r]), factor, sum[first + r]);
                }
                if (has_min)
                    for (int r = 0; r < rows; r++)
                        sum[first + r] = vf_fma(min, vf_set(scaled_sum[(first + r) * groups + g]),
                                                sum[first + r]);
            }
        }
    }
    for (int r = 0; r < sets * rows; r++) vf_store(sums[r], sum[r]);
}

typedef void (*Kernel)(const Matrix *m, const Rows *x, const uint8_t *tile, int64_t row,
                       float (*sums)[TILE], int sets);
#define KERNEL(name, bits, group, rows, sets_or_1, packed)                                        \
    static void name##_##bits##_##group(const Matrix *m, const Rows *x, const uint8_t *tile,      \
                                        int64_t row, float (*sums)[TILE], int sets) {             \
        (void)sets;                                                                               \
        multiply(m, x, tile, row, sums, bits, group, rows, sets_or_1, packed);                    \
    }
#define KERNELS(bits, group)                                                                      \
    KERNEL(one, bits, group, 1, 1, 1)                                                             \
    KERNEL(two, bits, group, 2, 1, 1)                                                             \
    KERNEL(many, bits, group, DOT_ROWS, sets, 0)
KERNELS(4, 32) KERNELS(5, 32) KERNELS(6, 32) KERNELS(8, 32)
KERNELS(4, 16) KERNELS(5, 16) KERNELS(6, 16) KERNELS(8, 16)

/* For one row, for two, for sets of DOT_ROWS rows. */
#define ROW(bits, group) {one_##bits##_##group, two_##bits##_##group, many_##bits##_##group}
static const Kernel KERNEL_TABLE[2][4][3] = {
    {ROW(4, 32), ROW(5, 32), ROW(6, 32), ROW(8, 32)},
    {ROW(4, 16), ROW(5, 16), ROW(6, 16), ROW(8, 16)},
};

/* sums[0 to count - 1] = the products of rows `row` on and a tile; behind them are DOT_ROWS - 1 more
 * rows for what is not wanted. */
static void integer_tile(const Matrix *m, const Rows *x, int64_t tile, int64_t row, int64_t count,
                         float (*sums)[TILE]) {
    const Kernel *kernels = KERNEL_TABLE[m->group == 16][m->bits == 8 ? 3 : m->bits - 4];
    const uint8_t *data = tile_data(m, tile);
    if (count <= 2) {
        kernels[count - 1](m, x, data, row, sums, 1);
        return;
    }
    for (int64_t first = 0; first < count; first += PASS_ROWS) {
        const int64_t rows = count - first < PASS_ROWS ? count - first : PASS_ROWS;
        kernels[2](m, x, data, row + first, sums + first, (int)((rows + DOT_ROWS - 1) / DOT_ROWS));
    }
}

/* ---- floats --------------------------------------------------------------------------------- */

SPECIALIZED void float_rows(const Matrix *m, const uint8_t *data, const float *x,
                            float (*sums)[TILE], int bits, int rows) {
    const int64_t columns = m->columns;
    const uint16_t *half = (const uint16_t *)data;
    const float *single = (const float *)data;
    vf sum[FLOAT_ROWS];
    for (int r = 0; r < rows; r++) sum[r] = vf_set(0.0f);
    for (int64_t k = 0; k < columns; k++) {
        vf w = bits == FLOAT_SINGLE   ? vf_load(single + k * TILE)
               : bits == FLOAT_HALF ? vf_load_half(half + k * TILE)
                                    : vf_load_bfloat(half + k * TILE);
        for (int r = 0; r < rows; r++) sum[r] = vf_fma(vf_set(x[r * columns + k]), w, sum[r]);
    }
    for (int r = 0; r < rows; r++) vf_store(sums[r], sum[r]);
}

static void float_tile(const Matrix *m, const Rows *x, int64_t tile, int64_t row, int64_t count,
                       float (*sums)[TILE]) {
    const uint8_t *data = tile_data(m, tile);
    for (int64_t r = 0; r < count;) {
        const float *from = x->x + (row + r) * m->columns;
        int four = r + FLOAT_ROWS <= count;
        switch (m->bits) {
#define FLOATS(bits)                                                                              \
    case bits:                                                                                    \
        if (four) float_rows(m, data, from, sums + r, bits, FLOAT_ROWS);                          \
        else float_rows(m, data, from, sums + r, bits, 1);                                        \
        break;
            FLOATS(FLOAT_SINGLE) FLOATS(FLOAT_HALF) FLOATS(FLOAT_BFLOAT)
#undef FLOATS
        }
        r += four ? FLOAT_ROWS : 1;
    }
}

/* ---- the tasks ------------------------------------------------------------------------------ */

typedef struct {
    const Matrix *const *matrices;
    const Rows *x;
    float *y;
    int64_t count, stride, tiles, parts, chunk, chunks;
    int add;
} Call;

INLINE int64_t tiles_of(const Matrix *m) { return (m->rows + TILE - 1) / TILE; }

/* Write the sums of a tile to y from row `row` on; the matrix's first column there is `column`. */
static void finish(const Call *call, const Matrix *m, int64_t tile, int64_t column, int64_t row,
                   int64_t count, float (*sums)[TILE]) {
    int64_t first = tile * TILE, left = m->rows - first;
    int n = left < TILE ? (int)left : TILE;
    vf bias = vf_set(0.0f);
    if (m->bias) bias = vf_load_first(m->bias + first, n, 0.0f);
    for (int64_t r = 0; r < count; r++) {
        float *y = call->y + (row + r) * call->stride + column + first;
        vf sum = vf_load(sums[r]);
        if (m->bias) sum = vf_add(sum, bias);
        if (call->add) sum = vf_add(sum, n < TILE ? vf_load_first(y, n, 0.0f) : vf_load(y));
        if (n < TILE) vf_store_first(y, n, sum);
        else vf_store(y, sum);
    }
}

static void linear_task(void *context, int64_t index, int thread) {
    (void)thread;
    const Call *call = context;
    const int64_t row = index % call->chunks * call->chunk, part = index / call->chunks;
    const int64_t count = call->count - row < call->chunk ? call->count - row : call->chunk;
    int64_t tile = part * call->tiles / call->parts, end = (part + 1) * call->tiles / call->parts;
    int64_t column = 0;
    const Matrix *const *m = call->matrices;
    float sums[TASK_ROWS + DOT_ROWS - 1][TILE];
    for (; tile < end; tile++) {
        for (; tile >= tiles_of(*m); m++) { /* tiles are counted from the matrix's first */
            tile -= tiles_of(*m);
            end -= tiles_of(*m);
            column += (*m)->rows;
        }
        if (is_float(*m)) float_tile(*m, call->x, tile, row, count, sums);
        else integer_tile(*m, call->x, tile, row, count, sums);
        finish(call, *m, tile, column, row, count, sums);
    }
}

EXPORT void linear(Pool *pool, const Matrix *const *matrices, int num_matrices, const Rows *x,
                   int64_t count, float *y, int64_t stride, int add) {
    if (count <= 0) return;
    Call call = {.matrices = matrices, .x = x, .y = y, .count = count, .stride = stride, .add = add};
    for (int i = 0; i < num_matrices; i++) call.tiles += tiles_of(matrices[i]);
    call.chunks = (count + TASK_ROWS - 1) / TASK_ROWS;
    call.chunk = (count + call.chunks - 1) / call.chunks;
    call.chunk = (call.chunk + DOT_ROWS - 1) / DOT_ROWS * DOT_ROWS;
    call.parts = (int64_t)pool_threads(pool) * TASKS;
    if (count > PASS_ROWS && call.parts * TASK_TILES < call.tiles)
        call.parts = (call.tiles + TASK_TILES - 1) / TASK_TILES;
    if (call.parts > call.tiles) call.parts = call.tiles;
    pool_run(pool, call.parts * call.chunks, linear_task, &call);
}

/* ---- one row of weights --------------------------------------------------------------------- */

static float float_weight(const uint8_t *data, int bits, int64_t at) {
    if (bits == FLOAT_SINGLE) return ((const float *)data)[at];
    uint16_t half = ((const uint16_t *)data)[at];
    return bits == FLOAT_HALF ? half_to_float(half) : bfloat_to_float(half);
}

/* The integer of column k (0 to 31) of an output (0 to 15) in a block. */
static int integer_weight(const uint8_t *block, int bits, int output, int k) {
    int j = k / 4, at = 4 * output + k % 4;
    if (bits == 8) return block[64 * j + at];
    int low = block[64 * (j / 2) + at] >> 4 * (j % 2) & 15;
    if (bits == 5) return low | (block[256 + at] >> j & 1) << 4;
    if (bits == 6) return low | (block[256 + 64 * (j / 4) + at] >> 2 * (j % 4) & 3) << 4;
    return low;
}

EXPORT void matrix_row(const Matrix *m, int64_t j, float *out) {
    const uint8_t *data = tile_data(m, j / TILE);
    int output = (int)(j % TILE);
    if (is_float(m)) {
        for (int64_t k = 0; k < m->columns; k++)
            out[k] = float_weight(data, m->bits, k * TILE + output);
        return;
    }
    Walk walk = {data, vf_set(0.0f), vf_set(0.0f)};
    int parts = GROUP / m->group;
    for (int64_t b = 0; b < m->columns / GROUP; b++) {
        const uint8_t *block = next_block(&walk, m, b, m->bits);
        for (int part = 0; part < parts; part++) {
            vf d, min;
            float scale[TILE], low[TILE];
            block_scales(&walk, m, part, parts, &d, &min);
            vf_store(scale, d);
            vf_store(low, min);
            for (int k = part * m->group; k < (part + 1) * m->group; k++)
                out[GROUP * b + k] =
                    fmaf((float)(integer_weight(block, m->bits, output, k) - m->zero),
                         scale[output], low[output]);
        }
    }
}

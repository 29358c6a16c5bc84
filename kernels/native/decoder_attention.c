/* Attention over pages.
 *
 * A pass is some rows times the query heads of one KV head, over splits whose pages all of them read.
 * Per split: scores of BLOCK of these at a time (a key vector is loaded and widened once for all of
 * a block), weights, then sums of values in the same way.  Sums run in the order of keys, and of
 * dimensions, whatever the block; keys that a row does not see have weight 0, which changes no bit,
 * and what lies behind the last key that a row of the block sees is never read into a sum. */
#include "decoder_attention.h"

/* Query heads of a block: as many as have their sums in registers. */
#if defined(SGEN_AVX512)
#define BLOCK 12
#elif defined(SGEN_AVX2) || defined(SGEN_NEON)
#define BLOCK 6
#else
#define BLOCK 2
#endif
/* Keeps the compiler from holding on to the rows' numbers from one vector to the next: 3 rows of 2
 * vectors are all the registers that AVX2 has. */
#if defined(SGEN_AVX2)
#define FORGET __asm__ volatile("" ::: "memory")
#else
#define FORGET (void)0
#endif
#define WIDTH(rows) (4 * (rows) <= BLOCK ? 4 : 2 * (rows) <= BLOCK ? 2 : 1) /* vectors of a row */

/* ---- a pass ---------------------------------------------------------------------------------- */

typedef struct {
    AttentionPlan *plan;
    const float *q;
    float *out, scale;
    int64_t stride;
    int layer;
} Call;

/* One KV head of a part; `blocks` are the pages of the current split in which keys are seen. */
typedef struct {
    const Call *call;
    const Part *part;
    int head, dim, kind, queries;
    int keep;                           /* each split by itself, for a later fold */
    Scratch s;
    int32_t split;
    const uint8_t *blocks[SPLIT_PAGES];
} Pass;

/* Queries `first` to `first + rows - 1` of a pass in a split; keys are counted from its start. */
typedef struct {
    int first, rows;
    int begin, end;                     /* keys that any of them sees */
    int row_begin[BLOCK], row_end[BLOCK];
    float weights[BLOCK][SPLIT];        /* scores first */
    float top[LANES], total[LANES];     /* of the split */
    float old_factor[LANES], new_factor[LANES];
    float *sums[BLOCK];
} Block;

INLINE vf load_vector(int kind, const uint8_t *p, int64_t i) {
    if (kind == KV_SINGLE) return vf_load((const float *)p + i);
    if (kind == KV_BFLOAT) return vf_load_bfloat((const uint16_t *)p + i);
    return vf_load_i8((const int8_t *)p + i);
}

INLINE const uint8_t *values_of(const Pass *p, int page) {
    return p->blocks[page] + PAGE * p->dim * element_bytes(p->kind);
}
INLINE const float *scales_of(const Pass *p, int page) {
    return (const float *)(p->blocks[page] + 2 * PAGE * p->dim);
}

/* Scores of `rows` with the keys of `width` pages from `page` on. */
INLINE void score_pages(const Pass *p, Block *b, int kind, int rows, int width, int page) {
    vf sum[BLOCK][4];
    const int dim = p->dim;
    const float *q = p->s.q + b->first * dim;
    const uint8_t *const *blocks = p->blocks + page;
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < width; c++) sum[r][c] = vf_set(0.0f);
    for (int d = 0; d < dim; d++) {
#pragma GCC unroll 4
        for (int c = 0; c < width; c++) {
            const vf key = load_vector(kind, blocks[c], d * PAGE);
            /* The values are next, in strides that no processor foresees; asked for in this pace, they
             * are there by then. */
            __builtin_prefetch(blocks[c] + (dim + d) * PAGE * element_bytes(kind));
            FORGET;
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++)
                sum[r][c] = vf_fma(vf_set(q[r * dim + d]), key, sum[r][c]);
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < width; c++) {
        const vf scale = kind == KV_INT8 ? vf_load(scales_of(p, page + c)) : vf_set(1.0f);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
            vf_store(&b->weights[r][(page + c) * PAGE],
                     kind == KV_INT8 ? vf_mul(sum[r][c], scale) : sum[r][c]);
    }
}

/* Sums of values by weight, `width` vectors of dimensions from `d` on: folded into those of earlier
 * splits, or stored for that. */
INLINE void sum_values(const Pass *p, const Block *b, int kind, int rows, int width, int d) {
    vf sum[BLOCK][4];
    const int dim = p->dim;
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < width; c++) sum[r][c] = vf_set(0.0f);
    const int64_t row_bytes = dim * element_bytes(kind);
    for (int key = b->begin; key < b->end;) {
        const int page = key / PAGE, stop = b->end < (page + 1) * PAGE ? b->end : (page + 1) * PAGE;
        const uint8_t *values = values_of(p, page) + (key - page * PAGE) * row_bytes;
        for (; key < stop; key++, values += row_bytes) {
#pragma GCC unroll 4
            for (int c = 0; c < width; c++) {
                const vf value = load_vector(kind, values, d + c * LANES);
                FORGET;
#pragma GCC unroll 12
                for (int r = 0; r < rows; r++)
                    sum[r][c] = vf_fma(vf_set(b->weights[r][key]), value, sum[r][c]);
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        if (b->row_begin[r] >= b->row_end[r]) continue;
#pragma GCC unroll 4
        for (int c = 0; c < width; c++) {
            float *to = b->sums[r] + d + c * LANES;
            vf x = sum[r][c];
            if (!p->keep)
                x = vf_fma(x, vf_set(b->new_factor[r]),
                           vf_mul(vf_load(to), vf_set(b->old_factor[r])));
            vf_store(to, x);
        }
    }
}

/* ---- a block in a split ---------------------------------------------------------------------- */

INLINE void score_kind(const Pass *p, Block *b, int kind, int rows) {
    int page = b->begin / PAGE;
    const int end = (b->end + PAGE - 1) / PAGE;
    for (; page + WIDTH(rows) <= end; page += WIDTH(rows))
        score_pages(p, b, kind, rows, WIDTH(rows), page);
    for (; page < end; page++) score_pages(p, b, kind, rows, 1, page);
}

INLINE void value_kind(const Pass *p, const Block *b, int kind, int rows) {
    int d = 0;
    for (; d + WIDTH(rows) * LANES <= p->dim; d += WIDTH(rows) * LANES)
        sum_values(p, b, kind, rows, WIDTH(rows), d);
    for (; d < p->dim; d += LANES) sum_values(p, b, kind, rows, 1, d);
}

/* A copy of these for each kind and number of rows, so that sums stay in registers. */
#define FOR_KIND(function, rows)                                                                  \
    if (p->kind == KV_SINGLE) function(p, b, KV_SINGLE, rows);                               \
    else if (p->kind == KV_BFLOAT) function(p, b, KV_BFLOAT, rows);                               \
    else function(p, b, KV_INT8, rows);
#define CASE(function, rows) case rows: FOR_KIND(function, rows) break;
#if BLOCK == 12
#define MORE(F) CASE(F, 3) CASE(F, 4) CASE(F, 5) CASE(F, 6) CASE(F, 7) CASE(F, 8) CASE(F, 9)       \
    CASE(F, 10) CASE(F, 11) CASE(F, 12)
#elif BLOCK == 6
#define MORE(F) CASE(F, 3) CASE(F, 4) CASE(F, 5) CASE(F, 6)
#else
#define MORE(F)
#endif
static void score_block(const Pass *p, Block *b) {
    switch (b->rows) { CASE(score_kind, 1) CASE(score_kind, 2) MORE(score_kind) }
}
static void value_block(const Pass *p, const Block *b) {
    switch (b->rows) { CASE(value_kind, 1) CASE(value_kind, 2) MORE(value_kind) }
}

/* Scores to weights, of which the largest is 1. */
static void weigh(const Pass *p, Block *b) {
    const int first = b->begin / PAGE, last = (b->end - 1) / PAGE;
    vf most[BLOCK], total[BLOCK];
    for (int r = 0; r < b->rows; r++) {
        float *w = b->weights[r];
        for (int i = first * PAGE; i < b->row_begin[r]; i++) w[i] = -INFINITY;
        for (int i = b->row_end[r]; i < (last + 1) * PAGE; i++) w[i] = -INFINITY;
        most[r] = vf_load(w + first * PAGE);
        for (int i = first + 1; i <= last; i++) most[r] = vf_max(most[r], vf_load(w + i * PAGE));
    }
    for (int r = 0; r < b->rows; r++) b->top[r] = vf_top(most[r]);
    for (int r = 0; r < b->rows; r++) {
        const vf top = vf_set(b->top[r]);
        total[r] = vf_set(0.0f);
        for (int page = first; page <= last; page++) {
            vf x = vf_exp(vf_sub(vf_load(b->weights[r] + page * PAGE), top));
            total[r] = vf_add(total[r], x);
            if (p->kind == KV_INT8) x = vf_mul(x, vf_load(scales_of(p, page) + PAGE));
            vf_store(b->weights[r] + page * PAGE, x);
        }
    }
    for (int r = 0; r < b->rows; r++) b->total[r] = vf_sum(total[r]);
}

/* The formula by which a split is added to those before it, for LANES query heads at once: new top
 * and total; sums = old_factor * sums + new_factor * the split's.  A split_top of -inf with a
 * split_total of 0 changes nothing. */
INLINE void fold(float *top, float *total, vf split_top, vf split_total, float *old_factor,
                 float *new_factor) {
    const vf before = vf_load(top), now = vf_max(before, split_top);
    const vf a = vf_exp(vf_sub(before, now)), b = vf_exp(vf_sub(split_top, now));
    vf_store(top, now);
    vf_store(total, vf_fma(split_total, b, vf_mul(vf_load(total), a)));
    vf_store(old_factor, a);
    vf_store(new_factor, b);
}

INLINE int within(int32_t x) { return x < 0 ? 0 : x > SPLIT ? SPLIT : x; }

/* Which keys of the split the block's rows see; 0 if none. */
static int look(const Pass *p, Block *b) {
    const int32_t start = p->split * SPLIT;
    b->begin = SPLIT;
    b->end = 0;
    for (int r = 0; r < b->rows; r++) {
        const int begin = within(p->s.begin[b->first + r] - start);
        const int end = within(p->s.end[b->first + r] - start);
        b->row_begin[r] = begin < end ? begin : 0;
        b->row_end[r] = begin < end ? end : 0;
        if (begin >= end) continue;
        if (begin < b->begin) b->begin = begin;
        if (end > b->end) b->end = end;
    }
    return b->begin < b->end;
}

INLINE const Row *row_of(const Pass *p, int query) {
    const AttentionPlan *plan = p->call->plan;
    return &plan->rows[p->part->row + query / plan->group];
}
INLINE int64_t head_of(const Pass *p, int query) {
    return (int64_t)p->head * p->call->plan->group + query % p->call->plan->group;
}

/* Say where the sums of the block's rows go, and keep or fold the rest. */
static void place(const Pass *p, Block *b) {
    const AttentionPlan *plan = p->call->plan;
    for (int r = 0; r < b->rows; r++) {
        b->sums[r] = p->s.sums + (b->first + r) * p->dim;
        if (!p->keep || b->row_begin[r] >= b->row_end[r]) continue;
        const Row *row = row_of(p, b->first + r);
        const int64_t slot = (row->slot + 1 + p->split - row->folded) * plan->query_heads
                             + head_of(p, b->first + r);
        b->sums[r] = plan->stored_sums + slot * p->dim;
        plan->stored_top[slot] = b->top[r];
        plan->stored_total[slot] = b->total[r];
    }
    if (!p->keep)
        fold(p->s.top + b->first, p->s.total + b->first, vf_load(b->top), vf_load(b->total),
             b->old_factor, b->new_factor);
}

static void attend_block(const Pass *p, Block *b) {
    if (!look(p, b)) return;
    vf_store(b->top, vf_set(-INFINITY));
    vf_store(b->total, vf_set(0.0f));
    score_block(p, b);
    weigh(p, b);
    place(p, b);
    value_block(p, b);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

INLINE float *out_of(const Call *call, const Row *row, int64_t head) {
    return call->out + (row->token * call->plan->query_heads + head) * call->plan->kv.dim;
}

/* The result of one query.  Zeros lose their sign, which hangs on the keys of weight 0 in a block and
 * on how a row was cut into parts; until here it cannot show in anything but zeros. */
INLINE void divide(const float *sums, float total, int dim, float *out) {
    for (int d = 0; d < dim; d += LANES)
        vf_store(out + d, vf_add(vf_div(vf_load(sums + d), vf_set(total)), vf_set(0.0f)));
}

/* Fold all that is stored of a row and KV head. */
static void fold_stored(const Call *call, const Row *row, int kv_head) {
    const AttentionPlan *plan = call->plan;
    const int dim = plan->kv.dim;
    const int slots = slots_of(row);
    for (int g = 0; g < plan->group; g += LANES) {
        const int n = plan->group - g < LANES ? plan->group - g : LANES;
        const int64_t head = (int64_t)kv_head * plan->group + g;
        float top[LANES], total[LANES], old_factor[LANES], new_factor[LANES];
        float *out = out_of(call, row, head);
        vf_store(top, vf_set(-INFINITY));
        vf_store(total, vf_set(0.0f));
        memset(out, 0, (size_t)(n * dim) * sizeof(float));
        for (int i = 0; i < slots; i++) {
            const int64_t slot = (row->slot + i) * plan->query_heads + head;
            const float *sums = plan->stored_sums + slot * dim;
            fold(top, total, vf_load_first(plan->stored_top + slot, n, -INFINITY),
                 vf_load_first(plan->stored_total + slot, n, 0.0f), old_factor, new_factor);
            for (int j = 0; j < n * dim; j += LANES) {
                const vf old = vf_mul(vf_load(out + j), vf_set(old_factor[j / dim]));
                vf_store(out + j, vf_fma(vf_load(sums + j), vf_set(new_factor[j / dim]), old));
            }
        }
        for (int j = 0; j < n; j++) divide(out + j * dim, total[j], dim, out + j * dim);
    }
}

static void begin_pass(const Pass *p) {
    const Call *call = p->call;
    const vf scale = vf_set(call->scale);
    for (int i = 0; i < p->queries; i++) {
        const Row *row = row_of(p, i);
        const float *q = call->q + row->token * call->stride + head_of(p, i) * p->dim;
        for (int d = 0; d < p->dim; d += LANES)
            vf_store(p->s.q + i * p->dim + d, vf_mul(vf_load(q + d), scale));
        p->s.begin[i] = row->begin;
        p->s.end[i] = row->end;
    }
    for (int i = 0; i < p->queries + LANES; i++) {
        p->s.top[i] = -INFINITY;
        p->s.total[i] = 0.0f;
    }
    memset(p->s.sums, 0, (size_t)(p->queries * p->dim) * sizeof(float));
}

static void end_pass(const Pass *p) {
    const Call *call = p->call;
    const AttentionPlan *plan = call->plan;
    for (int i = 0; !p->keep && i < p->queries; i++) {
        const Row *row = row_of(p, i);
        const float *sums = p->s.sums + i * p->dim;
        if (p->part->stored) {
            const int64_t slot = row->slot * plan->query_heads + head_of(p, i);
            memcpy(plan->stored_sums + slot * p->dim, sums, (size_t)p->dim * sizeof(float));
            plan->stored_top[slot] = p->s.top[i];
            plan->stored_total[slot] = p->s.total[i];
        } else {
            divide(sums, p->s.total[i], p->dim, out_of(call, row, head_of(p, i)));
        }
    }
    for (int64_t i = 0; p->part->stored && i < p->part->count; i++) {
        const Row *row = &plan->rows[p->part->row + i];
        int32_t *missing = &plan->missing[row->stored * plan->kv.heads + p->head];
        if (__atomic_sub_fetch(missing, 1, __ATOMIC_ACQ_REL)) continue;
        *missing = row->parts; /* for the next layer */
        fold_stored(call, row, p->head);
    }
}

static void attend(void *context, int64_t index, int thread) {
    const Call *call = context;
    const AttentionPlan *plan = call->plan;
    const KV *kv = &plan->kv;
    const int64_t bytes = kv_block_bytes(kv);
    const Part *part = &plan->parts[index / kv->heads];
    Pass p = {.call = call, .part = part, .head = (int)(index % kv->heads), .dim = kv->dim,
              .kind = kv->kind, .queries = (int)(part->count * plan->group),
              .keep = part->stored && !part->first, .s = plan->scratch[thread]};
    int32_t keys = 0;
    for (int64_t i = 0; i < part->count; i++)
        if (plan->rows[part->row + i].end > keys) keys = plan->rows[part->row + i].end;
    begin_pass(&p);
    const int count = (p.queries + BLOCK - 1) / BLOCK;
    for (p.split = part->begin; p.split < part->end; p.split++) {
        const int32_t first = p.split * SPLIT_PAGES;
        for (int i = 0; i < SPLIT_PAGES && (first + i) * PAGE < keys; i++)
            p.blocks[i] = block_of(kv, bytes, call->layer, part->pages[first + i], p.head);
        for (int i = 0; i < count; i++) {
            Block b;
            b.first = p.queries * i / count;
            b.rows = p.queries * (i + 1) / count - b.first;
            attend_block(&p, &b);
        }
    }
    end_pass(&p);
}

EXPORT void attention(Pool *pool, AttentionPlan *plan, int layer, const float *q, int64_t stride,
                      float scale, float *out) {
    Call call = {plan, q, out, scale, stride, layer};
    pool_run(pool, plan->num_parts * plan->kv.heads, attend, &call);
}

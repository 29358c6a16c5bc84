/* A whole step of the decoder in one call: tokens in, keys and values written, logits out.
 *
 * What is done to rows alone runs in chunks of them, so that what one linear leaves is still in the
 * cache for the next, and memory does not grow with the step; attention sees all rows at once. */
#include "decoder.h"
#include <stdlib.h>

#define CHUNK 256      /* rows of a linear */
#define ROWS_A_TASK 4  /* of norms, rope and the like */

typedef struct {
    const float *input_norm, *post_norm;    /* [hidden] */
    const float *q_norm, *k_norm;           /* [dim] or NULL */
    Matrix q, k, v, o, gate, up, down;
} Layer;

typedef struct {
    int32_t hidden, num_layers, heads, kv_heads, dim, wide;
    int32_t half;                           /* pairs of dimensions that rope turns */
    int32_t window;                         /* keys that a query sees; 0: all */
    float eps, scale;                       /* of norms; of scores */
    const float *norm;                      /* [hidden] */
    const Layer *layers;
    Matrix embedding, head;
} Model;

/* What a step needs beside its result; grows, and is kept from step to step. */
typedef struct {
    Pool *pool;
    const Model *model;
    char *memory;
    size_t size;
    int64_t rows, chunk;                    /* of the step that it has room for; of `normed` */
    float *x, *qkv, *gate_up;               /* [T][hidden], [T][(Hq + 2 Hkv) D], [CHUNK][2 wide] */
    Rows normed, attended, mixed;           /* inputs of qkv, gate, up and head; of o; of down */
} Workspace;

typedef struct {
    Workspace *w;
    const Layer *layer;
    int index;
    const KV *kv;
    const Step *step;
    const float *cosine, *sine;             /* [positions][half] */
    const float *norm;
    int64_t first, count;                   /* rows of this chunk */
    int quantize;
} Pass;

/* ---- memory --------------------------------------------------------------------------------- */

static void take_rows(Rows *rows, char *memory, size_t *used, int64_t count, int32_t columns) {
    const size_t n = (size_t)(count + SPARE_ROWS) * (size_t)columns;
    rows->columns = columns;
    rows->x = take(memory, used, n * sizeof(float));
    rows->q = take(memory, used, n);
    rows->scale = take(memory, used, n / GROUP * sizeof(float));
    rows->sum16 = take(memory, used, n / LANES * sizeof(int32_t));
    rows->sum32 = take(memory, used, n / GROUP * sizeof(int32_t));
    rows->scaled16 = take(memory, used, n / LANES * sizeof(float));
    rows->scaled32 = take(memory, used, n / GROUP * sizeof(float));
}

static size_t lay_out(Workspace *w, char *memory, int64_t rows) {
    const Model *m = w->model;
    const size_t n = (size_t)rows, query = (size_t)(m->heads * m->dim);
    const int64_t chunk = rows < CHUNK ? rows : CHUNK;
    size_t used = 0;
    w->x = take(memory, &used, n * (size_t)m->hidden * sizeof(float));
    w->qkv = take(memory, &used, n * (query + 2 * (size_t)(m->kv_heads * m->dim)) * sizeof(float));
    take_rows(&w->attended, memory, &used, rows, (int32_t)query);
    take_rows(&w->normed, memory, &used, chunk, m->hidden);
    take_rows(&w->mixed, memory, &used, chunk, m->wide);
    w->gate_up = take(memory, &used, (size_t)chunk * 2 * (size_t)m->wide * sizeof(float));
    return used;
}

static int make_room(Workspace *w, int64_t rows) {
    if (rows <= w->rows) return 1;
    free(w->memory);
    w->rows = 0;
    w->size = (lay_out(w, NULL, rows) + 63) & ~(size_t)63;
    w->memory = aligned_alloc(64, w->size);
    if (!w->memory) return 0;
    lay_out(w, w->memory, rows);
    w->rows = rows;
    w->chunk = rows < CHUNK ? rows : CHUNK;
    return 1;
}

EXPORT Workspace *workspace_new(Pool *pool, const Model *model) {
    Workspace *w = calloc(1, sizeof *w);
    if (w) {
        w->pool = pool;
        w->model = model;
    }
    return w;
}

EXPORT void workspace_free(Workspace *w) {
    if (w) free(w->memory);
    free(w);
}

/* ---- what is done to rows ------------------------------------------------------------------- */

/* Tasks of ROWS_A_TASK rows of a chunk. */
static void over_rows(Pass *pass, Task task) {
    pool_run(pass->w->pool, (pass->count + ROWS_A_TASK - 1) / ROWS_A_TASK, task, pass);
}

#define EACH_ROW(pass, i)                                                                         \
    for (int64_t i = index * ROWS_A_TASK;                                                         \
         i < (pass)->count && i < (index + 1) * ROWS_A_TASK; i++)

static void norm_task(void *context, int64_t index, int thread) {
    (void)thread;
    Pass *p = context;
    const Workspace *w = p->w;
    const int64_t hidden = w->model->hidden;
    EACH_ROW(p, i) {
        rms_norm(w->x + (p->first + i) * hidden, p->norm, w->model->eps, hidden,
                 w->normed.x + i * hidden);
        if (p->quantize) quantize_row(&w->normed, i);
    }
}

static void embed_task(void *context, int64_t index, int thread) {
    (void)thread;
    Pass *p = context;
    const Model *m = p->w->model;
    EACH_ROW(p, i) matrix_row(&m->embedding, p->step->tokens[i], p->w->x + i * m->hidden);
}

static void gather_task(void *context, int64_t index, int thread) {
    (void)thread;
    Pass *p = context;
    const Workspace *w = p->w;
    const int64_t hidden = w->model->hidden;
    EACH_ROW(p, i) {
        rms_norm(w->x + p->step->logit_rows[p->first + i] * hidden, p->norm, w->model->eps, hidden,
                 w->normed.x + i * hidden);
        if (p->quantize) quantize_row(&w->normed, i);
    }
}

static void rope_task(void *context, int64_t index, int thread) {
    (void)thread;
    Pass *p = context;
    const Model *m = p->w->model;
    const int64_t stride = (int64_t)(m->heads + 2 * m->kv_heads) * m->dim;
    EACH_ROW(p, i) {
        const int64_t position = p->step->positions[p->first + i];
        const float *cosine = p->cosine + position * m->half, *sine = p->sine + position * m->half;
        float *row = p->w->qkv + (p->first + i) * stride;
        for (int h = 0; h < m->heads + m->kv_heads; h++) {
            float *head = row + (int64_t)h * m->dim;
            const float *norm = h < m->heads ? p->layer->q_norm : p->layer->k_norm;
            if (norm) rms_norm(head, norm, m->eps, m->dim, head);
            rope(head, cosine, sine, m->half);
        }
        const float *k = row + (int64_t)m->heads * m->dim, *v = k + (int64_t)m->kv_heads * m->dim;
        kv_write(p->kv, p->index, p->step->slots[p->first + i], k, v);
    }
}

static void silu_task(void *context, int64_t index, int thread) {
    (void)thread;
    Pass *p = context;
    const Workspace *w = p->w;
    const int64_t wide = w->model->wide;
    EACH_ROW(p, i) {
        const float *gate = w->gate_up + i * 2 * wide;
        silu_mul(gate, gate + wide, wide, w->mixed.x + i * wide);
        if (p->quantize) quantize_row(&w->mixed, i);
    }
}

static void quantize_attended_task(void *context, int64_t index, int thread) {
    (void)thread;
    Pass *p = context;
    EACH_ROW(p, i) quantize_row(&p->w->attended, p->first + i);
}

/* ---- a layer -------------------------------------------------------------------------------- */

static int any_integers(const Matrix *const *matrices, int count) {
    for (int i = 0; i < count; i++)
        if (!is_float(matrices[i])) return 1;
    return 0;
}

/* Rows from `first` on. */
static Rows from_row(const Rows *rows, int64_t first) {
    const int64_t n = rows->columns;
    const int64_t by16 = first * (n / LANES), by32 = first * (n / GROUP);
    return (Rows){rows->columns, rows->x + first * n, rows->q + first * n, rows->scale + by32,
                  rows->sum16 + by16, rows->sum32 + by32, rows->scaled16 + by16,
                  rows->scaled32 + by32};
}

static void begin_layer(Pass *p) {
    const Workspace *w = p->w;
    const Model *m = w->model;
    const Matrix *qkv[] = {&p->layer->q, &p->layer->k, &p->layer->v};
    const int64_t stride = (int64_t)(m->heads + 2 * m->kv_heads) * m->dim;
    p->norm = p->layer->input_norm;
    p->quantize = any_integers(qkv, 3);
    over_rows(p, norm_task);
    linear(w->pool, qkv, 3, &w->normed, p->count, w->qkv + p->first * stride, stride, 0);
    over_rows(p, rope_task);
}

static void end_layer(Pass *p) {
    const Workspace *w = p->w;
    const int64_t hidden = w->model->hidden, wide = w->model->wide;
    const Matrix *o = &p->layer->o, *down = &p->layer->down;
    const Matrix *gate_up[] = {&p->layer->gate, &p->layer->up};
    float *x = w->x + p->first * hidden;
    if (!is_float(o)) over_rows(p, quantize_attended_task);
    Rows attended = from_row(&w->attended, p->first);
    linear(w->pool, &o, 1, &attended, p->count, x, hidden, 1);
    p->norm = p->layer->post_norm;
    p->quantize = any_integers(gate_up, 2);
    over_rows(p, norm_task);
    linear(w->pool, gate_up, 2, &w->normed, p->count, w->gate_up, 2 * wide, 0);
    p->quantize = !is_float(down);
    over_rows(p, silu_task);
    linear(w->pool, &down, 1, &w->mixed, p->count, x, hidden, 1);
}

static void each_chunk(Pass *p, int64_t rows, void (*function)(Pass *)) {
    for (p->first = 0; p->first < rows; p->first += CHUNK) {
        p->count = rows - p->first < CHUNK ? rows - p->first : CHUNK;
        function(p);
    }
}

/* fp32 logits [R][vocabulary] of the step's logit rows.  Returns 0, or 1 where memory ran out. */
EXPORT int decoder_forward(Workspace *w, const KV *kv, const Step *step, const float *cosine,
                           const float *sine, float *logits) {
    const Model *m = w->model;
    const int64_t rows = step->num_tokens;
    if (!make_room(w, rows)) return 1;
    AttentionPlan *plan = attention_plan(kv, step, m->heads, m->window, pool_threads(w->pool));
    if (!plan) return 1;
    Pass p = {.w = w, .kv = kv, .step = step, .cosine = cosine, .sine = sine, .count = rows};
    over_rows(&p, embed_task);
    const int64_t stride = (int64_t)(m->heads + 2 * m->kv_heads) * m->dim;
    for (p.index = 0; p.index < m->num_layers; p.index++) {
        p.layer = &m->layers[p.index];
        each_chunk(&p, rows, begin_layer);
        attention(w->pool, plan, p.index, w->qkv, stride, m->scale, w->attended.x);
        each_chunk(&p, rows, end_layer);
    }
    attention_free(plan);
    const Matrix *head = &m->head;
    p.norm = m->norm;
    p.quantize = !is_float(head);
    for (p.first = 0; p.first < step->num_logits; p.first += p.count) {
        const int64_t left = step->num_logits - p.first;
        p.count = left < w->chunk ? left : w->chunk;
        over_rows(&p, gather_task);
        linear(w->pool, &head, 1, &w->normed, p.count, logits + p.first * head->rows, head->rows, 0);
    }
    return 0;
}

/* What the planning of attention and attention itself share.
 *
 * A row's keys are walked in splits of SPLIT keys at absolute positions 0, SPLIT, 2 SPLIT...  What a
 * row and head get of a split (sums of values, largest score, sum of weights) is computed from that
 * row and split alone, and splits are folded in rising order by one formula; a split of which a row
 * sees nothing is left out.  So rows may share passes, and splits may be computed anywhere. */
#ifndef SGEN_DECODER_ATTENTION_H
#define SGEN_DECODER_ATTENTION_H

#include "decoder.h"

#define SPLIT 64
#define SPLIT_PAGES (SPLIT / PAGE)

/* A row of the step that attends. */
typedef struct {
    int64_t token;          /* its number in the step */
    int32_t begin, end;     /* keys that it sees */
    int32_t parts;          /* how many parts it is in */
    int32_t folded;         /* splits before this one are its first part */
    int64_t slot;           /* where that part is stored, then the other splits; or -1 */
    int64_t stored;         /* its number among the rows that are stored */
} Row;

/* Rows that read splits `begin` to `end - 1` of the same pages: a task for each KV head. */
typedef struct {
    int64_t row, count;     /* of AttentionPlan.rows */
    int32_t begin, end;
    const int32_t *pages;   /* from position 0 on */
    int64_t cost;
    int first;              /* of the parts of its rows: its splits are folded at once */
    int stored;             /* what it yields is kept until all parts of a row are done */
} Part;

/* What a thread works in: `n` is the most rows of a pass times query heads of a KV head. */
typedef struct {
    float *q;               /* [n][dim], times the scale of scores */
    float *sums;            /* [n][dim] */
    float *top, *total;     /* [n + LANES] */
    int32_t *begin, *end;   /* [n]: keys that each sees */
} Scratch;

struct AttentionPlan {
    KV kv;
    int query_heads, group, threads;    /* group: query heads of a KV head */
    int pass_rows;                      /* the most rows of a part */
    int64_t num_rows, num_parts, room_for_parts;
    Row *rows;                          /* neighbours share pages */
    Part *parts;                        /* the longest first */
    Scratch *scratch;                   /* [threads] */
    float *stored_sums;                 /* [slot][query heads][dim] */
    float *stored_top, *stored_total;   /* [slot][query heads] */
    int32_t *missing;                   /* [stored row][KV heads]: parts still to come */
    void *memory;
};

INLINE int64_t element_bytes(int kind) { return kind == KV_SINGLE ? 4 : kind == KV_BFLOAT ? 2 : 1; }
/* The block of a layer, page and KV head; `bytes` is kv_block_bytes. */
INLINE uint8_t *block_of(const KV *kv, int64_t bytes, int layer, int64_t page, int head) {
    return kv->data + ((layer * kv->pages + page) * kv->heads + head) * bytes;
}

INLINE int32_t split_of(int32_t key) { return key / SPLIT; }
INLINE int32_t splits_to(int32_t key) { return (key + SPLIT - 1) / SPLIT; }
/* How much is stored of a row: its first part, folded, and each split behind that. */
INLINE int32_t slots_of(const Row *row) {
    return 1 + (splits_to(row->end) > row->folded ? splits_to(row->end) - row->folded : 0);
}

#endif

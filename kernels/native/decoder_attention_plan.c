/* Who reads what together: done once a step, for all layers.
 *
 * A request with many new rows is cut into passes of its own.  Of the others, those that begin with
 * the same pages are neighbours once they are sorted by their pages; whole splits that neighbours
 * share are read by all of them at once, then the rest of each by fewer or by itself: a tree.  Where
 * that leaves too few tasks for the threads, long ones are cut along their keys. */
#include "decoder_attention.h"
#include <stdlib.h>

#define PASS_HEADS 48       /* query heads of a pass, all its rows together: what the caches hold */
#define TASKS_A_THREAD 4    /* so that threads end at about the same time */
#define LEAST_SPLITS 2      /* in a task, and saved by sharing: less is not worth its overhead */
#define SPLIT_COST 8        /* of reading a split, in those of computing it for one query head */

/* A request: its rows, and what it shares with the next in order. */
typedef struct {
    const int32_t *pages;
    int64_t num_pages, row, count;
    int32_t shared;         /* whole splits of the same pages as the next */
} Strand;

static int by_pages(const void *left, const void *right) {
    const Strand *a = left, *b = right;
    const int64_t both = a->num_pages < b->num_pages ? a->num_pages : b->num_pages;
    for (int64_t i = 0; i < both; i++)
        if (a->pages[i] != b->pages[i]) return a->pages[i] < b->pages[i] ? -1 : 1;
    return (a->num_pages > b->num_pages) - (a->num_pages < b->num_pages);
}

static int by_cost(const void *left, const void *right) {
    const Part *a = left, *b = right;
    if (a->cost != b->cost) return a->cost < b->cost ? 1 : -1;
    return (a->row > b->row) - (a->row < b->row);
}

static int32_t shared_splits(const Strand *a, const Strand *b) {
    const int64_t both = a->num_pages < b->num_pages ? a->num_pages : b->num_pages;
    int64_t i = 0;
    while (i < both && a->pages[i] == b->pages[i]) i++;
    return (int32_t)(i / SPLIT_PAGES);
}

/* ---- parts ---------------------------------------------------------------------------------- */

static int add_part(AttentionPlan *plan, Part part) {
    if (plan->num_parts == plan->room_for_parts) {
        const int64_t room = 2 * plan->room_for_parts + 16;
        Part *grown = realloc(plan->parts, (size_t)room * sizeof *grown);
        if (!grown) return 0;
        plan->parts = grown;
        plan->room_for_parts = room;
    }
    part.first = plan->rows[part.row].parts == 0;
    for (Row *r = plan->rows + part.row; r < plan->rows + part.row + part.count; r++) {
        if (part.first) r->folded = part.end;
        r->parts++;
    }
    part.cost = (part.end - part.begin) * (SPLIT_COST + part.count * plan->group);
    plan->parts[plan->num_parts++] = part;
    return 1;
}

/* Rows `first` on read the splits below `end`, from `begin` or where the first of them begins. */
static int add_rows(AttentionPlan *plan, int64_t first, int64_t count, int32_t begin, int32_t end,
                    const int32_t *pages) {
    for (int64_t i = 0; i < count; i += plan->pass_rows) {
        Part part = {.row = first + i, .begin = INT32_MAX, .pages = pages};
        part.count = count - i < plan->pass_rows ? count - i : plan->pass_rows;
        for (const Row *r = plan->rows + part.row; r < plan->rows + part.row + part.count; r++) {
            if (split_of(r->begin) < part.begin) part.begin = split_of(r->begin);
            if (splits_to(r->end) > part.end) part.end = splits_to(r->end);
        }
        if (part.begin < begin) part.begin = begin;
        if (part.end > end) part.end = end;
        if (part.begin < part.end && !add_part(plan, part)) return 0;
    }
    return 1;
}

/* Strands `first` to `last`, whose splits below `begin` are dealt with and are the same pages. */
static int share(AttentionPlan *plan, const Strand *strands, int64_t first, int64_t last,
                 int32_t begin) {
    const Strand *s = strands + first;
    if (first == last) return add_rows(plan, s->row, s->count, begin, INT32_MAX, s->pages);
    int32_t least = INT32_MAX;
    for (int64_t i = first; i < last; i++)
        if (strands[i].shared < least) least = strands[i].shared;
    if ((least - begin) * (last - first) >= LEAST_SPLITS) {
        const int64_t rows = strands[last].row + strands[last].count - s->row;
        if (!add_rows(plan, s->row, rows, begin, least, s->pages)) return 0;
        begin = least;
    }
    for (int64_t i = first; i <= last; i++)
        if (i == last || strands[i].shared == least) {
            if (!share(plan, strands, first, i, begin)) return 0;
            first = i + 1;
        }
    return 1;
}

/* Leave a part its first splits: one of the pieces that it is cut into. */
static void shorten(AttentionPlan *plan, Part *part, int32_t splits, int64_t pieces) {
    part->end = part->begin + splits;
    part->cost /= pieces;
    for (int64_t i = 0; part->first && i < part->count; i++)
        plan->rows[part->row + i].folded = part->end;
}

/* Cut the longest parts along their keys, where there are too few tasks. */
static int cut_parts(AttentionPlan *plan) {
    int64_t cost = 0;
    const int64_t parts = plan->num_parts;
    for (int64_t i = 0; i < parts; i++) cost += plan->parts[i].cost;
    if (plan->threads == 1) return 1;
    const int64_t most = cost * plan->kv.heads / (plan->threads * TASKS_A_THREAD) + 1;
    for (int64_t i = 0; i < parts; i++) {
        const Part part = plan->parts[i];
        const int32_t splits = part.end - part.begin;
        int64_t pieces = (part.cost + most - 1) / most;
        if (pieces > splits / LEAST_SPLITS) pieces = splits / LEAST_SPLITS;
        for (int64_t j = 1; j < pieces; j++) {
            Part piece = part;
            piece.begin = part.begin + (int32_t)(splits * j / pieces);
            piece.end = part.begin + (int32_t)(splits * (j + 1) / pieces);
            if (!add_part(plan, piece)) return 0;
        }
        if (pieces > 1) shorten(plan, &plan->parts[i], (int32_t)(splits / pieces), pieces);
    }
    return 1;
}

/* ---- rows and memory ------------------------------------------------------------------------ */

/* A request's rows, behind those that are there. */
static Strand add_request(AttentionPlan *plan, const Step *step, int64_t b, int window) {
    const int32_t count = step->starts[b + 1] - step->starts[b], length = step->seq_lens[b];
    Strand s = {step->page_table + b * step->max_pages, (length + PAGE - 1) / PAGE, plan->num_rows,
                count, 0};
    for (int32_t i = 0; i < count; i++) {
        const int32_t end = length - count + i + 1;
        plan->rows[plan->num_rows++] = (Row){.token = step->starts[b] + i, .end = end,
            .begin = window && end > window ? end - window : 0, .slot = -1};
    }
    return s;
}

/* Rows of small requests, sorted by pages so that sharers are neighbours, then those of large ones. */
static int add_requests(AttentionPlan *plan, const Step *step, int window) {
    Strand *strands = malloc((size_t)step->num_requests * sizeof *strands + 1);
    if (!strands) return 0;
    int64_t small = 0;
    int ok = 1;
    for (int64_t b = 0; b < step->num_requests; b++) {
        const int64_t count = step->starts[b + 1] - step->starts[b];
        if (count > 0 && 2 * count <= plan->pass_rows) {
            strands[small++] = (Strand){step->page_table + b * step->max_pages,
                                        (step->seq_lens[b] + PAGE - 1) / PAGE, b, count, 0};
        } else if (count > 0) {
            const Strand s = add_request(plan, step, b, window);
            ok = ok && add_rows(plan, s.row, s.count, 0, INT32_MAX, s.pages);
        }
    }
    if (small > 1) qsort(strands, (size_t)small, sizeof *strands, by_pages);
    for (int64_t i = 0; i < small; i++) strands[i] = add_request(plan, step, strands[i].row, window);
    for (int64_t i = 0; i + 1 < small; i++)
        strands[i].shared = shared_splits(&strands[i], &strands[i + 1]);
    /* A window hides shared pages from some rows and not from others: each reads its own then. */
    for (int64_t i = 0; window && ok && i < small; i++) ok = share(plan, strands, i, i, 0);
    if (!window && ok && small) ok = share(plan, strands, 0, small - 1, 0);
    free(strands);
    return ok;
}

/* Which rows have splits to be stored, and where; returns how many slots that makes. */
static int64_t number_slots(AttentionPlan *plan, int64_t *stored_rows) {
    for (Part *p = plan->parts; p < plan->parts + plan->num_parts; p++) {
        for (int64_t i = 0; i < p->count; i++) p->stored |= plan->rows[p->row + i].parts > 1;
        for (int64_t i = 0; p->stored && i < p->count; i++) plan->rows[p->row + i].slot = 0;
    }
    int64_t slots = 0;
    *stored_rows = 0;
    for (Row *r = plan->rows; r < plan->rows + plan->num_rows; r++) {
        if (r->slot < 0) continue;
        r->slot = slots;
        r->stored = (*stored_rows)++;
        slots += slots_of(r);
    }
    return slots;
}

static size_t lay_out(AttentionPlan *plan, char *memory, int64_t slots, int64_t stored_rows) {
    const int64_t n = (int64_t)plan->pass_rows * plan->group, dim = plan->kv.dim;
    const int64_t heads = slots * plan->query_heads;
    size_t used = 0;
    Scratch *scratch = take(memory, &used, (size_t)(plan->threads * (int64_t)sizeof *scratch));
    for (int i = 0; i < plan->threads; i++) {
        Scratch s;
        s.q = take(memory, &used, (size_t)(n * dim * 4));
        s.sums = take(memory, &used, (size_t)(n * dim * 4));
        s.top = take(memory, &used, (size_t)((n + LANES) * 4));
        s.total = take(memory, &used, (size_t)((n + LANES) * 4));
        s.begin = take(memory, &used, (size_t)(n * 4));
        s.end = take(memory, &used, (size_t)(n * 4));
        if (memory) scratch[i] = s;
    }
    plan->scratch = scratch;
    plan->stored_sums = take(memory, &used, (size_t)(heads * dim * 4));
    plan->stored_top = take(memory, &used, (size_t)(heads * 4));
    plan->stored_total = take(memory, &used, (size_t)(heads * 4));
    plan->missing = take(memory, &used, (size_t)(stored_rows * plan->kv.heads * 4));
    return used;
}

static int make_room(AttentionPlan *plan) {
    int64_t stored_rows;
    const int64_t slots = number_slots(plan, &stored_rows);
    plan->memory = aligned_alloc(64, lay_out(plan, NULL, slots, stored_rows));
    if (!plan->memory) return 0;
    lay_out(plan, plan->memory, slots, stored_rows);
    for (const Row *r = plan->rows; r < plan->rows + plan->num_rows; r++)
        for (int h = 0; r->slot >= 0 && h < plan->kv.heads; h++)
            plan->missing[r->stored * plan->kv.heads + h] = r->parts;
    return 1;
}

/* The page table of `step` must outlive the plan. */
EXPORT AttentionPlan *attention_plan(const KV *kv, const Step *step, int query_heads, int window,
                                     int threads) {
    AttentionPlan *plan = calloc(1, sizeof *plan);
    if (!plan) return NULL;
    plan->kv = *kv;
    plan->query_heads = query_heads;
    plan->group = query_heads / kv->heads;
    plan->threads = threads;
    plan->pass_rows = plan->group < PASS_HEADS ? PASS_HEADS / plan->group : 1;
    plan->rows = malloc((size_t)step->num_tokens * sizeof *plan->rows + 1);
    if (!plan->rows || !add_requests(plan, step, window) || !cut_parts(plan) || !make_room(plan)) {
        attention_free(plan);
        return NULL;
    }
    qsort(plan->parts, (size_t)plan->num_parts, sizeof *plan->parts, by_cost);
    return plan;
}

EXPORT void attention_free(AttentionPlan *plan) {
    if (!plan) return;
    free(plan->rows);
    free(plan->parts);
    free(plan->memory);
    free(plan);
}

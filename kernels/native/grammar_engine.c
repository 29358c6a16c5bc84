/* An engine from outside: made of a plan, asked for states. */
#include "grammar.h"

PUBLIC void sg_free(Engine *e) {
    for (Block *block = e->blocks, *next; block; block = next) {
        next = block->after;
        free(block);
    }
    free(e);
}

/* NULL, and what went wrong in `error`, if there can be no such engine. */
PUBLIC Engine *sg_new(const void *plan, int64_t size, int64_t max_bytes, int32_t max_states,
                      int32_t *error) {
    Engine *e = calloc(1, sizeof *e);
    *error = NO_MEMORY;
    if (!e) return NULL;
    e->max_bytes = max_bytes;
    e->max_states = max_states;
    e->chunk = 2048;
    if (setjmp(e->jump)) {
        *error = e->error;
        sg_free(e);
        return NULL;
    }
    load_plan(e, plan, size);
    *error = FINE;
    return e;
}

PUBLIC int32_t sg_possible(const Engine *e) { return e->costs[e->root].bytes < INFINITE; }
PUBLIC int32_t sg_start(const Engine *e) { return e->machine->start; }
PUBLIC int64_t sg_bytes(const Engine *e) { return e->bytes + (int64_t)sizeof *e; }
PUBLIC int32_t sg_states(const Engine *e) { return e->n_states; }

static const State *state_of(const Engine *e, int32_t state) {
    return &e->machine->states.at[state];
}

PUBLIC int32_t sg_accepts(const Engine *e, int32_t state) { return state_of(e, state)->accepts; }
PUBLIC int32_t sg_live(const Engine *e, int32_t state) { return state_of(e, state)->live; }
PUBLIC int32_t sg_distance(const Engine *e, int32_t state) { return state_of(e, state)->distance; }
PUBLIC int32_t sg_weight(const Engine *e, int32_t state) { return state_of(e, state)->n; }

/* The state after some bytes, or DEAD; errors are below that. */
PUBLIC int64_t sg_advance(Engine *e, int32_t state, const uint8_t *text, int64_t size) {
    GUARD(e, DEAD - e->error);
    for (int64_t i = 0; i < size && state != DEAD; i++) state = step(e->machine, state, text[i]);
    return state;
}

/* The states after each byte. */
PUBLIC int64_t sg_row(Engine *e, int32_t state, int32_t out[256]) {
    GUARD(e, -e->error);
    for (int byte = 0; byte < 256; byte++) out[byte] = step(e->machine, state, byte);
    return 0;
}

/* The bytes, at most `limit`, that every text goes on with; how many. */
PUBLIC int64_t sg_forced(Engine *e, int32_t state, uint8_t *out, int64_t limit) {
    GUARD(e, -e->error);
    int64_t n = 0;
    while (n < limit && !e->machine->states.at[state].accepts) {
        const ClassMap *map = row_of(e->machine, state)->map;
        if (map->n_live != 1) break;
        out[n++] = map->live[0];
        state = step(e->machine, state, map->live[0]);
    }
    return n;
}

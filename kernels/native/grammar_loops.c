/* Masks of states that read some characters again and again, as those of patterns do.
 *
 * All tokens of an alphabet are allowed together in two cases: where its characters lead from a
 * state to few states only, and from each of these to one of them again; and where all of them lead
 * to one state, from there to a next one, and so on for as many as any token has, which is how
 * counting looks.  Then only the places where tokens leave the alphabet are walked, from the state
 * that has read what is ahead of them.
 */
#include "grammar_vocabulary.h"

enum { LONGEST_CHAIN = 256, MOST_CLOSED = 12, LEAST_LIVE = 20 };

/* The states after 0, 1, ... characters; from `last` on they are all the same, or, if there is no
 * room for more than `room` of them, none.  If they are closed, at[0] to at[last] are all states. */
typedef struct {
    int32_t at[LONGEST_CHAIN + 1];
    int32_t last, room, closed;
} Chain;

/* The one state that all bytes from `low` to `high` lead to; DEAD if it is none, or not one. */
static int32_t target_of(Machine *m, int32_t state, int low, int high) {
    int32_t found = step(m, state, low);
    const Row *row = row_of(m, state);
    for (int byte = low + 1; byte <= high && found != DEAD; byte++)
        if (row->map->of[byte] != row->map->of[low] && step(m, state, byte) != found) found = DEAD;
    return found;
}

/* The same, for a state that no other byte follows, and that texts can be completed from. */
static int32_t only_target(Walk *w, int32_t state, int low, int high) {
    Machine *m = w->c->e->machine;
    if (state == DEAD || row_of(m, state)->map->n_live != high - low + 1) return DEAD;
    return fits_after(w, state) ? target_of(m, state, low, high) : DEAD;
}

/* Whether every character from U+0080 on leads from a state to `after`. */
static int reads_wide(Walk *w, int32_t state, int32_t after) {
    Machine *m = w->c->e->machine;
    int32_t one = target_of(m, state, 0xC2, 0xDF), two = target_of(m, state, 0xE1, 0xEC);
    int32_t three = target_of(m, state, 0xF1, 0xF3);
    return only_target(w, one, 0x80, 0xBF) == after
        && only_target(w, step(m, state, 0xE0), 0xA0, 0xBF) == one
        && only_target(w, two, 0x80, 0xBF) == one && target_of(m, state, 0xEE, 0xEF) == two
        && only_target(w, step(m, state, 0xED), 0x80, 0x9F) == one
        && only_target(w, step(m, state, 0xF0), 0x90, 0xBF) == two
        && only_target(w, three, 0x80, 0xBF) == two
        && only_target(w, step(m, state, 0xF4), 0x80, 0x8F) == two;
}

/* The state that all characters of an alphabet lead to; DEAD if it is none, or not one. */
static int32_t after_any(Walk *w, const LoopTokens *loop, int32_t state) {
    Machine *m = w->c->e->machine;
    int32_t found = step(m, state, loop->bytes[0]);
    for (int32_t i = 1; i < loop->n_bytes && found != DEAD; i++)
        if (step(m, state, loop->bytes[i]) != found) found = DEAD;
    if (found == DEAD || !fits_after(w, found)) return DEAD;
    return loop->wide && !reads_wide(w, state, found) ? DEAD : found;
}

static int reads_none(Machine *m, const LoopTokens *loop, int32_t state) {
    for (int32_t i = 0; i < loop->n_bytes; i++)
        if (step(m, state, loop->bytes[i]) != DEAD) return 0;
    for (int byte = 0xC2; loop->wide && byte < 0xF5; byte++)
        if (step(m, state, byte) != DEAD) return 0;
    return 1;
}

/* Follow an alphabet for as far as tokens go. */
static int find_chain(Walk *w, const LoopTokens *loop, int32_t state, Chain *chain) {
    Machine *m = w->c->e->machine;
    int32_t longest = loop->inside.n ? loop->inside.chars[loop->inside.n - 1] : 0;
    if (longest > LONGEST_CHAIN) return 0;
    chain->room = FAR;
    chain->closed = 0;
    chain->at[0] = state;
    for (int32_t d = 0; d < longest; d++) {
        int32_t next = after_any(w, loop, chain->at[d]);
        chain->last = d;
        if (next == chain->at[d]) return 1;
        if (next == DEAD) {
            chain->room = d;
            return d > 0 && reads_none(m, loop, chain->at[d]);
        }
        chain->at[d + 1] = next;
    }
    chain->last = longest;
    return 1;
}

/* Add a state to a closed set; 0: it may not be there, or there are too many. */
static int join(Walk *w, Chain *set, int32_t state) {
    for (int32_t i = 0; i <= set->last; i++)
        if (set->at[i] == state) return 1;
    if (state == DEAD || set->last + 1 == MOST_CLOSED || !fits_after(w, state)) return 0;
    set->at[++set->last] = state;
    return 1;
}

/* Find all states that the characters of an alphabet lead to, if these are few. */
static int find_closed(Walk *w, const LoopTokens *loop, int32_t state, Chain *set) {
    Machine *m = w->c->e->machine;
    set->room = FAR;
    set->closed = 1;
    set->at[0] = state;
    set->last = 0;
    for (int32_t done = 0; done <= set->last; done++) {
        int32_t before = UNKNOWN;
        for (int32_t i = 0; i < loop->n_bytes; i++) {
            int32_t next = step(m, set->at[done], loop->bytes[i]);
            if (next == before) continue;
            before = next;
            if (!join(w, set, next)) return 0;
        }
        if (!loop->wide) continue;
        int32_t one = target_of(m, set->at[done], 0xC2, 0xDF);
        int32_t after = only_target(w, one, 0x80, 0xBF);
        if (!join(w, set, after) || !reads_wide(w, set->at[done], after)) return 0;
    }
    return fits_after(w, state); /* tokens may lead back to it */
}

/* The state that has read what is ahead of a node. */
static int32_t state_before(Walk *w, const Chain *chain, int32_t node, int32_t chars) {
    if (!chain->closed) return chain->at[chars < chain->last ? chars : chain->last];
    int32_t state = chain->at[0], size = 0;
    uint8_t text[4 * LONGEST_CHAIN];
    if (chain->last == 0) return state;
    for (node = w->trie->parent[node]; node > 0; node = w->trie->parent[node])
        text[size++] = w->trie->byte[node];
    while (size > 0) state = step(w->c->e->machine, state, text[--size]);
    return state;
}

/* Walk the places where tokens leave the alphabet by one byte. */
static void walk_exits(Walk *w, const LoopTokens *loop, const Chain *chain, int byte) {
    Machine *m = w->c->e->machine;
    int32_t live = 0;
    if (loop->exit_first[byte] == loop->exit_first[byte + 1]) return;
    for (int32_t i = 0; i <= chain->last && !live; i++) live = step(m, chain->at[i], byte) != DEAD;
    for (int32_t i = loop->exit_first[byte]; live && i < loop->exit_first[byte + 1]; i++) {
        if (loop->exit_chars[i] > chain->room) break;
        int32_t before = state_before(w, chain, loop->exits[i], loop->exit_chars[i]);
        int32_t target = step(m, before, byte);
        if (target == DEAD) continue;
        allow_node(w, loop->exits[i], target);
        walk(w, loop->exits[i], target);
    }
}

/* Whether the state is of that kind; then its mask is made. */
int walk_loop(Walk *w, int32_t state) {
    Machine *m = w->c->e->machine;
    const Vocabulary *v = w->c->v;
    if (row_of(m, state)->map->n_live < LEAST_LIVE) return 0;
    Chain chain;
    for (int32_t i = 0; i < v->n_loops; i++) {
        const LoopTokens *loop = &v->loops[i];
        int32_t highest = w->highest;
        if (!find_closed(w, loop, state, &chain) && !find_chain(w, loop, state, &chain)) {
            w->highest = highest;
            continue;
        }
        allow_set(w, &loop->inside, chain.room);
        for (int byte = 0; byte < 256; byte++) walk_exits(w, loop, &chain, byte);
        return 1;
    }
    return 0;
}

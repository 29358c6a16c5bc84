/* Masks of states that read some characters again and again, as those of patterns do.
 *
 * A set of states is closed under an alphabet if its characters lead from each of them to one of
 * them.  In a closed set all tokens of the alphabet are allowed together, and only the places where
 * tokens leave the alphabet are walked.  Where only most ways lead into a closed set, the others
 * are walked, and what they forbid is taken away again.  And where all characters lead to one
 * state, from there to a next one, and so on for as many as any token has, which is how counting
 * looks, the tokens of the alphabet are allowed up to a length.
 */
#include "grammar_vocabulary.h"

enum { MOST_CLOSED = 64, LEAST_LIVE = 20, SUBSTATES = 32, PERIODS = 12 };
enum { NOT_TRIED = 0, NOT_CLOSED = -1 }; /* else a set's number + 1 */

/* The states after 0, 1, ... characters, up to DEEP; from `last` on they are all the same, or, if
 * there is no room for more than `room` of them, none. */
typedef struct {
    int32_t at[DEEP + 1];
    int32_t last, room;
} Chain;

static int32_t step_if(Machine *m, int32_t state, int byte) {
    return state == DEAD ? DEAD : step(m, state, byte);
}

/* The one state that all bytes from `low` to `high` lead to; DEAD if it is none, or not one. */
static int32_t target_of(Machine *m, int32_t state, int low, int high) {
    int32_t found = step(m, state, low);
    const Row *row = row_of(m, state);
    for (int byte = low + 1; byte <= high && found != DEAD; byte++)
        if (row->map->of[byte] != row->map->of[low] && step(m, state, byte) != found) found = DEAD;
    return found;
}

/* The state that all wide characters lead to from a state; DEAD if it is none, or not one, or if
 * texts cannot be completed on the way. */
static int32_t after_wide(Walk *w, int32_t state) {
    const Vocabulary *v = w->c->v;
    int32_t at[SUBSTATES], after = DEAD;
    for (int32_t i = 1; i < SUBSTATES; i++) at[i] = DEAD;
    at[0] = state;
    for (int32_t i = 0; i < v->n_wide; i++) { /* in such an order that each substate is known */
        const int32_t *edge = v->wide + 4 * i;
        int32_t target = target_of(w->c->e->machine, at[edge[0]], edge[1], edge[2]);
        int32_t *known = edge[3] ? &at[edge[3]] : &after;
        if (target == DEAD || (*known != DEAD && *known != target)) return DEAD;
        if (*known == DEAD && !fits_after(w, target)) return DEAD;
        *known = target;
    }
    return after;
}

/* The state that all characters of an alphabet lead to; DEAD if it is none, or not one. */
static int32_t after_any(Walk *w, const LoopTokens *loop, int32_t state) {
    Machine *m = w->c->e->machine;
    int32_t found = step(m, state, loop->bytes[0]);
    for (int32_t i = 1; i < loop->n_bytes && found != DEAD; i++)
        if (step(m, state, loop->bytes[i]) != found) found = DEAD;
    if (found == DEAD || !fits_after(w, found)) return DEAD;
    return loop->wide && after_wide(w, state) != found ? DEAD : found;
}

static int reads_none(Machine *m, const LoopTokens *loop, int32_t state) {
    for (int byte = 0; byte < 256; byte++)
        if (loop->steps[byte] >= 0 && step(m, state, byte) != DEAD) return 0;
    return 1;
}

/* The state that has read what leads from one node to another. */
static int32_t state_at(Walk *w, int32_t state, int32_t base, int32_t node) {
    if (node == base) return state;
    int32_t before = state_at(w, state, base, w->trie->parent[node]);
    return step_if(w->c->e->machine, before, w->trie->byte[node]);
}

/* Walk a place where tokens leave the alphabet. */
static void walk_exit(Walk *w, int32_t node, int32_t before) {
    int32_t target = step_if(w->c->e->machine, before, w->trie->byte[node]);
    if (target == DEAD) return;
    allow_node(w, node, target);
    walk(w, node, target);
}

/* Counting. */

/* Follow an alphabet for as far as most tokens go. */
static int find_chain(Walk *w, const LoopTokens *loop, int32_t state, Chain *chain) {
    int32_t longest = loop->longest < DEEP ? loop->longest : DEEP;
    chain->room = FAR;
    chain->at[0] = state;
    for (int32_t d = 0; d < longest; d++) {
        int32_t next = after_any(w, loop, chain->at[d]);
        chain->last = d;
        if (next == chain->at[d]) return 1;
        if (next == DEAD) {
            chain->room = d;
            return d > 0 && reads_none(w->c->e->machine, loop, chain->at[d]);
        }
        chain->at[d + 1] = next;
    }
    chain->last = longest;
    return 1;
}

static void walk_chain(Walk *w, const LoopTokens *loop, const Chain *chain) {
    allow_set(w, &loop->inside, chain->room < DEEP ? chain->room : DEEP);
    for (int32_t i = 0; i < loop->n_deep && chain->room >= DEEP; i++)
        walk(w, loop->deep[i], chain->at[chain->last]);
    for (int byte = 0; byte < 256; byte++) {
        int32_t live = 0;
        for (int32_t i = 0; i <= chain->last && !live; i++)
            live = step(w->c->e->machine, chain->at[i], byte) != DEAD;
        for (int32_t i = loop->exit_first[byte + 1]; i-- > loop->exit_first[byte];) {
            int32_t chars = loop->exit_chars[i], exit = loop->exits[i];
            if (chars == MIDDLE) { /* these come last */
                walk_exit(w, exit, state_at(w, chain->at[0], loop->base, w->trie->parent[exit]));
            } else if (!live) {
                break;
            } else if (chars <= chain->room && chars < DEEP) {
                walk_exit(w, exit, chain->at[chars < chain->last ? chars : chain->last]);
            }
        }
    }
}

/* Closed sets. */

static Closed *closed_at(Closing *c, int32_t state) {
    const Closed fresh = {NOT_TRIED, 0, 0};
    while (c->closed.n <= state) PUSH(c->e, c->closed, fresh);
    return &c->closed.at[state];
}

/* Add a state to `members`; 0: it may not be there, or there are too many. */
static int join(Walk *w, int32_t state, int32_t stamp) {
    Closing *c = w->c;
    if (state == DEAD) return 0;
    Closed *closed = closed_at(c, state);
    if (closed->stamp == stamp) return 1;
    if (closed->set == NOT_CLOSED || !fits_after(w, state)) return 0;
    closed->stamp = stamp;
    PUSH(c->e, c->members, state);
    return c->members.n <= MOST_CLOSED;
}

/* Find all states that the characters of an alphabet lead to; 0 if they are too many, or there are
 * some that lead elsewhere.  Then `members` has what was found so far. */
static int find_all(Walk *w, const LoopTokens *loop, int32_t state) {
    Closing *c = w->c;
    int32_t stamp = ++c->stamp;
    c->members.n = 0;
    if (!join(w, state, stamp)) return 0;
    for (int32_t done = 0; done < c->members.n; done++) {
        int32_t here = c->members.at[done], before = UNKNOWN;
        for (int32_t i = 0; i < loop->n_bytes; i++) {
            int32_t next = step(c->e->machine, here, loop->bytes[i]);
            if (next == before) continue;
            before = next;
            if (!join(w, next, stamp)) return 0;
        }
        if (loop->wide && !join(w, after_wide(w, here), stamp)) return 0;
    }
    return 1;
}

/* Note what was found for all members. */
static void keep_set(Closing *c, int32_t alphabet, int32_t highest) {
    ClosedSet set = {alphabet, highest, {0}};
    for (int32_t i = 0; i < c->members.n; i++) {
        const uint8_t *class = row_of(c->e->machine, c->members.at[i])->map->of;
        for (int byte = 0; byte < 256; byte++) set.live[byte] |= class[byte] != 0;
    }
    PUSH(c->e, c->sets, set);
    for (int32_t i = 0; i < c->members.n; i++) closed_at(c, c->members.at[i])->set = c->sets.n;
}

/* Whether a text that repeats itself comes to ever new states: a cheap sign of counting. */
static int counts(Machine *m, int32_t state, const char *text) {
    int32_t met[PERIODS];
    for (int32_t period = 0; period < PERIODS; period++) {
        for (int32_t i = 0; i < period; i++)
            if (met[i] == state) return 0;
        met[period] = state;
        for (const char *byte = text; *byte; byte++) state = step_if(m, state, *byte);
        if (state == DEAD) return 0;
    }
    return 1;
}

/* The number + 1 of the closed set that a state is in, of the first alphabet that has one. */
static int32_t closed_set(Walk *w, int32_t state) {
    Closing *c = w->c;
    Machine *m = c->e->machine;
    Walk unlimited = *w;
    unlimited.remaining = NEVER_CLOSES;
    if (closed_at(c, state)->set == NOT_TRIED && (counts(m, state, "e") || counts(m, state, "e ")))
        closed_at(c, state)->set = NOT_CLOSED;
    for (int32_t i = 0; i < c->v->n_alphabets && closed_at(c, state)->set == NOT_TRIED; i++) {
        unlimited.highest = 0;
        if (find_all(&unlimited, &c->v->loops[i], state)) keep_set(c, i, unlimited.highest);
        else if (c->members.n > MOST_CLOSED) break;
    }
    if (closed_at(c, state)->set == NOT_TRIED) closed_at(c, state)->set = NOT_CLOSED;
    return closed_at(c, state)->set;
}

/* The set of that number + 1, if texts can be completed within the budget from all of it. */
static const ClosedSet *usable(Walk *w, int32_t number) {
    Closing *c = w->c;
    if (number <= 0) return NULL;
    const ClosedSet *set = &c->sets.at[number - 1];
    if (w->remaining < NEVER_CLOSES && (!c->all_plain || set->highest >= w->remaining)) return NULL;
    if (set->highest > w->highest) w->highest = set->highest;
    return set;
}

/* Walk the places where tokens leave an alphabet, as far as its states can follow. */
static void walk_exits(Walk *w, const LoopTokens *loop, int32_t state, const uint8_t live[256]) {
    int single = after_any(w, loop, state) == state;
    for (int byte = 0; byte < 256; byte++) {
        int here = live[byte] && !(single && step(w->c->e->machine, state, byte) == DEAD);
        for (int32_t i = loop->exit_first[byte + 1]; i-- > loop->exit_first[byte];) {
            int32_t exit = loop->exits[i], middle = loop->exit_chars[i] == MIDDLE;
            if (!here && !middle) break; /* those in the middle come last */
            int32_t parent = w->trie->parent[exit];
            walk_exit(w, exit, single && !middle ? state : state_at(w, state, loop->base, parent));
        }
    }
}

static const LoopTokens *loop_at(const Vocabulary *v, int32_t alphabet, int32_t node) {
    return node == 0 ? &v->loops[alphabet] : v->loops[alphabet].below_space;
}

static int walk_closed(Walk *w, int32_t node, int32_t state) {
    const ClosedSet *found = usable(w, closed_set(w, state));
    if (!found) return 0;
    const ClosedSet set = *found;
    const LoopTokens *loop = loop_at(w->c->v, set.alphabet, node);
    allow_set(w, &loop->inside, FAR);
    walk_exits(w, loop, state, set.live);
    return 1;
}

/* Where most ways lead into a closed set. */

typedef struct {
    Walk walk; /* into bits that begin with all tokens of the alphabet */
    const LoopTokens *loop;
    int32_t alphabet;
    uint8_t live[256];
} Default;

static int covers(const Closing *c, int32_t number, int32_t alphabet) {
    return number > 0 && (c->v->loops[c->sets.at[number - 1].alphabet].covers >> alphabet & 1);
}

/* Make a closed set of a state if all characters lead from it to itself or into others. */
static void try_closed(Default *d, int32_t state) {
    Closing *c = d->walk.c;
    const LoopTokens *loop = d->loop;
    ClosedSet set = {d->alphabet, 0, {0}};
    Walk unlimited = d->walk;
    unlimited.remaining = NEVER_CLOSES;
    unlimited.highest = 0;
    closed_at(c, state)->failed |= 1u << d->alphabet; /* for the time being */
    if (!fits_after(&unlimited, state)) return;
    int32_t before = state;
    for (int32_t i = 0; i < loop->n_bytes + loop->wide; i++) {
        int32_t next = i < loop->n_bytes ? step(c->e->machine, state, loop->bytes[i])
            : after_wide(&unlimited, state);
        if (next == before || next == state) continue;
        before = next;
        int32_t number = next == DEAD ? 0 : closed_at(c, next)->set;
        if (!covers(c, number, d->alphabet)) return;
        const ClosedSet *other = &c->sets.at[number - 1];
        for (int byte = 0; byte < 256; byte++) set.live[byte] |= other->live[byte];
        if (other->highest > set.highest) set.highest = other->highest;
    }
    const uint8_t *class = row_of(c->e->machine, state)->map->of;
    for (int byte = 0; byte < 256; byte++) set.live[byte] |= class[byte] != 0;
    if (unlimited.highest > set.highest) set.highest = unlimited.highest;
    PUSH(c->e, c->sets, set);
    closed_at(c, state)->set = c->sets.n;
}

/* Whether a state is in a closed set; then the bytes that can follow are noted. */
static int is_closed(Default *d, int32_t state) {
    Closing *c = d->walk.c;
    const Closed *closed = closed_at(c, state);
    if (!covers(c, closed->set, d->alphabet) && !(closed->failed >> d->alphabet & 1))
        try_closed(d, state);
    int32_t number = closed_at(c, state)->set;
    if (!covers(c, number, d->alphabet) || !usable(&d->walk, number)) return 0;
    const ClosedSet *set = &c->sets.at[number - 1];
    for (int byte = 0; byte < 256; byte++) d->live[byte] |= set->live[byte];
    return 1;
}

/* Take away the tokens that end at a node, or also those below it. */
static void forbid(Default *d, int32_t node, int below) {
    const Trie *trie = d->walk.trie;
    for (int32_t low = node, high = node + 1, next; low < high; low = next) {
        for (int32_t k = trie->at[low].ends; k < trie->at[high].ends; k++)
            d->walk.out[trie->tokens[k] >> 5] &= ~(1u << (trie->tokens[k] & 31));
        if (!below) return;
        next = trie->at[low].first;
        high = trie->at[high].first;
    }
}

/* Walk what lies below a node within the alphabet, except for what comes to closed sets. */
static void walk_others(Default *d, int32_t node, int32_t substate, int32_t state) {
    Walk *w = &d->walk;
    const Trie *trie = w->trie;
    Machine *m = w->c->e->machine;
    int32_t end = trie->at[node + 1].first, wide = UNKNOWN;
    const uint8_t *class = row_of(m, state)->map->of;
    for (int byte = 0; byte < 256 && substate == 0; byte++) d->live[byte] |= class[byte] != 0;
    for (int32_t child = trie->at[node].first; child < end; child++) {
        int byte = trie->byte[child];
        int32_t after = d->loop->steps[256 * substate + byte];
        if (after < 0) continue;
        int32_t target = step(m, state, byte);
        if (target == DEAD) {
            forbid(d, child, 1);
            continue;
        }
        if (after == 0 && is_closed(d, target)) continue;
        if (after > 0 && substate == 0) {
            if (wide == UNKNOWN) {
                int32_t found = after_wide(w, state);
                wide = found != DEAD && is_closed(d, found);
            }
            if (wide) continue;
        }
        if (trie->at[child].ends < trie->at[child + 1].ends && !fits_after(w, target))
            forbid(d, child, 0);
        if (trie->at[child].first < trie->at[child + 1].first) walk_others(d, child, after, target);
    }
}

/* The closed set that most characters lead to, or NOT_CLOSED. */
static int32_t usual_set(Walk *w, int32_t state) {
    Machine *m = w->c->e->machine;
    int32_t best = DEAD, most = 0;
    for (int first = 0x20; first < 0x7F; first++) {
        int32_t target = step(m, state, first), count = 0;
        if (target == DEAD || target == best) continue;
        for (int byte = first; byte < 0x7F; byte++) count += step(m, state, byte) == target;
        if (count > most) {
            most = count;
            best = target;
        }
    }
    return most < LEAST_LIVE ? NOT_CLOSED : closed_set(w, best);
}

static int walk_default(Walk *w, int32_t node, int32_t state) {
    Closing *c = w->c;
    int32_t number = usual_set(w, state), n_words = c->v->n_words;
    const ClosedSet *set = usable(w, number);
    if (!set) return 0;
    RESERVE(c->e, c->bits, n_words);
    Default d = {*w, loop_at(c->v, set->alphabet, node), set->alphabet, {0}};
    d.walk.out = c->bits.at;
    memset(c->bits.at, 0, 4 * (size_t)n_words);
    allow_set(&d.walk, &d.loop->inside, FAR);
    walk_others(&d, node, 0, state);
    for (int32_t i = 0; i < n_words; i++) w->out[i] |= c->bits.at[i];
    if (d.walk.highest > w->highest) w->highest = d.walk.highest;
    walk_exits(w, d.loop, state, d.live);
    return 1;
}

/* Whether the state is of one of these kinds; then the subtrees of a node are walked. */
int walk_loop(Walk *w, int32_t node, int32_t state) {
    const Vocabulary *v = w->c->v;
    if (row_of(w->c->e->machine, state)->map->n_live < LEAST_LIVE) return 0;
    if (walk_closed(w, node, state) || walk_default(w, node, state)) return 1;
    Chain chain;
    for (int32_t i = 0; i < v->n_alphabets; i++) {
        const LoopTokens *loop = loop_at(v, i, node);
        int32_t highest = w->highest;
        if (find_chain(w, loop, state, &chain)) {
            walk_chain(w, loop, &chain);
            return 1;
        }
        w->highest = highest;
    }
    return 0;
}

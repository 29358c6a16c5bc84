/* States that differ only in counts that no token can bring to an end.
 *
 * A repetition that has read its least number of rounds, and has room for as many more as any token
 * can begin, allows what one without an end does; and so does a network with a limit.  So the masks
 * of such states are made for the state that does not count, and are all the same.
 */
#include "grammar_vocabulary.h"

/* The bytes of the shortest option of a network that counts towards its limit. */
static int64_t shortest_option(const Engine *e, const Node *n) {
    int64_t shortest = INFINITE;
    for (int32_t state = 0; state < n->code[2]; state++) {
        const int32_t *option = n->code + n->code[4 + state];
        for (int32_t left = *option++; left > 0; left--) {
            int64_t bytes = 0;
            int counts = *++option >= 0;
            for (; *option >= 0; option++) bytes += e->costs[n->base + *option].bytes;
            option++;
            if (counts && bytes < shortest) shortest = bytes;
        }
    }
    return shortest;
}

/* How many rounds there must be left, so that no token comes to the last one: the first that it
 * begins is not before its second byte.  INFINITE if rounds without text may count. */
static int64_t room_of(Closing *c, int32_t node) {
    const Engine *e = c->e;
    const Node *n = &e->nodes[node];
    while (c->rooms.n <= node) PUSH(c->e, c->rooms, 0);
    if (c->rooms.at[node]) return c->rooms.at[node];
    int64_t round = 1, needs = 0;
    if (n->kind == REPEAT) { /* of rounds without text only one is ever begun */
        round = e->costs[n->base + n->code[1]].bytes;
        if (round == 0) round = 1;
    } else {
        round = shortest_option(e, n);
        for (int32_t i = 0; i < n->code[2]; i++) {
            int32_t more = n->code[4 + n->code[2] + i];
            if (more > needs) needs = more;
        }
    }
    return c->rooms.at[node] = round ? c->v->longest / round + 1 + needs : INFINITE;
}

static int64_t uncounted_position(Closing *c, const Cont *cont) {
    const Engine *e = c->e;
    const Node *n = &e->nodes[cont->node];
    if (cont->dot && cont->arg == DONE) return DONE;
    if (n->kind == REPEAT) {
        int32_t high = n->code[3];
        int counts = high >= 0 && cont->arg >= repeat_low(e, n) && cont->arg < UNCOUNTED;
        return counts && high - cont->arg >= room_of(c, cont->node) ? UNCOUNTED : cont->arg;
    }
    if (n->kind == NETWORK && n->code[3] >= 0) {
        int64_t states = n->code[2], count = cont->arg / states;
        if (count < UNCOUNTED && n->code[3] - count >= room_of(c, cont->node))
            return cont->arg % states + states * UNCOUNTED;
    }
    return cont->arg;
}

/* The continuation that does not count; those of the whole grammar are remembered.  They may be
 * very long. */
static int32_t uncounted_cont(Closing *c, Machine *m, int32_t cont) {
    int known = m == c->e->machine;
    int32_t bottom = c->order.n, same = END;
    while (known && c->same_conts.n < m->conts.n) PUSH(c->e, c->same_conts, -1);
    for (; cont != END; cont = m->conts.at[cont].parent) {
        if (known && c->same_conts.at[cont] >= 0) {
            same = c->same_conts.at[cont];
            break;
        }
        PUSH(c->e, c->order, cont);
    }
    while (c->order.n > bottom) {
        cont = c->order.at[--c->order.n];
        const Cont from = m->conts.at[cont];
        int64_t arg = uncounted_position(c, &from);
        int changed = same != from.parent || arg != from.arg;
        same = changed ? push_cont(m, from.node, from.dot, arg, same) : cont;
        if (known) c->same_conts.at[cont] = same;
    }
    return same;
}

/* The state that does not count. */
int32_t uncounted(Closing *c, Machine *m, int32_t state) {
    Engine *e = c->e;
    const State st = m->states.at[state];
    c->order.n = 0;
    for (int pass = 0, changed = 0; pass < 2; pass++) {
        if (pass) m->merged.n = 0;
        for (int32_t i = 0; i < st.n; i++) {
            Config config = st.configs[i];
            if (config.node != ACCEPT) {
                const Node *n = &e->nodes[config.node];
                if (n->kind == MACHINE) config.local = uncounted(c, n->lexeme, config.local);
                config.cont = uncounted_cont(c, m, config.cont);
            }
            changed |= memcmp(&config, &st.configs[i], sizeof config) != 0;
            if (pass) PUSH(e, m->merged, config);
        }
        if (!changed) return state;
    }
    return intern_merged(m);
}

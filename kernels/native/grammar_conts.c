/* Continuations, and the configurations that they begin with. */
#include "grammar.h"

/* Hash tables: numbers + 1 in slots, at most half of them used. */

int32_t *grow_slots(Engine *e, int32_t *slots, int32_t *mask) {
    int32_t size = *mask ? 2 * (*mask + 1) : 16;
    slots = resize(e, slots, 4 * (int64_t)size);
    memset(slots, 0, 4 * (size_t)size);
    *mask = size - 1;
    return slots;
}

static uint64_t hash_place(int32_t node, int32_t dot, int64_t arg, int32_t parent) {
    uint64_t place = (uint64_t)(uint32_t)node << 32 | (uint32_t)dot;
    return mix(mix(place, (uint64_t)arg), (uint64_t)parent);
}

/* Bytes of the symbols from `dot` on, and of the frame's position after them. */
static int64_t bytes_left(const Engine *e, const Node *n, int32_t node, int32_t dot, int64_t arg) {
    int64_t bytes = 0;
    if (dot)
        for (const int32_t *symbol = n->code + dot; *symbol >= 0; symbol++)
            bytes += e->costs[n->base + *symbol].bytes;
    if (!dot || arg != DONE) bytes += cost_at(e, node, arg).bytes;
    return bytes;
}

/* The number of a continuation. */
int32_t push_cont(Machine *m, int32_t node, int32_t dot, int64_t arg, int32_t parent) {
    Engine *e = m->engine;
    if (2 * m->conts.n >= m->cont_mask) {
        m->cont_slots = grow_slots(e, m->cont_slots, &m->cont_mask);
        for (int32_t i = 1; i < m->conts.n; i++) {
            const Cont *c = &m->conts.at[i];
            uint64_t at = hash_place(c->node, c->dot, c->arg, c->parent) & (uint64_t)m->cont_mask;
            while (m->cont_slots[at]) at = (at + 1) & (uint64_t)m->cont_mask;
            m->cont_slots[at] = i + 1;
        }
    }
    uint64_t at = hash_place(node, dot, arg, parent) & (uint64_t)m->cont_mask;
    for (; m->cont_slots[at]; at = (at + 1) & (uint64_t)m->cont_mask) {
        int32_t known = m->cont_slots[at] - 1;
        const Cont *c = &m->conts.at[known];
        if (c->node == node && c->dot == dot && c->arg == arg && c->parent == parent) return known;
    }
    const Node *n = &e->nodes[node];
    const Cont *above = &m->conts.at[parent];
    int nests = (n->kind == NETWORK && n->code[1]) || n->kind == UNORDERED;
    int32_t depth = above->depth + (nests && !(dot && arg == DONE));
    int64_t bytes = above->bytes + bytes_left(e, n, node, dot, arg);
    Cont cont = {arg, bytes, NULL, node, dot, parent, depth, -1, -1};
    PUSH(e, m->conts, cont);
    m->cont_slots[at] = m->conts.n;
    return m->conts.n - 1;
}

/* What a continuation can begin with: frames at positions are visited, lexemes found. */

static void visit(Machine *m, int32_t node, int32_t dot, int64_t arg, int32_t parent) {
    Engine *e = m->engine;
    if (2 * m->visited.n >= m->seen_mask) {
        if (m->visited.n > MAX_VISITED) fail(e, TOO_AMBIGUOUS);
        m->seen = grow_slots(e, m->seen, &m->seen_mask);
        for (int32_t i = 0; i < m->visited.n; i++) {
            const Visit *v = &m->visited.at[i];
            uint64_t at = hash_place(v->node, v->dot, v->arg, v->parent) & (uint64_t)m->seen_mask;
            while (m->seen[at]) at = (at + 1) & (uint64_t)m->seen_mask;
            m->seen[at] = i + 1;
        }
    }
    uint64_t at = hash_place(node, dot, arg, parent) & (uint64_t)m->seen_mask;
    for (; m->seen[at]; at = (at + 1) & (uint64_t)m->seen_mask) {
        const Visit *v = &m->visited.at[m->seen[at] - 1];
        if (v->node == node && v->dot == dot && v->arg == arg && v->parent == parent) return;
    }
    Visit fresh = {arg, node, dot, parent};
    PUSH(e, m->visited, fresh);
    m->seen[at] = m->visited.n;
}

static void enter(Machine *m, int32_t node, int32_t parent);

static void open(Machine *m, int32_t cont) {
    const Cont c = m->conts.at[cont];
    if (cont == END) {
        Config accept = {ACCEPT, 0, 0};
        PUSH(m->engine, m->found, accept);
    } else if (c.dot == 0 && !is_frame(&m->engine->nodes[c.node])) {
        enter(m, c.node, c.parent);
    } else {
        visit(m, c.node, c.dot, c.arg, c.parent);
    }
}

static void enter(Machine *m, int32_t node, int32_t parent) {
    Engine *e = m->engine;
    if (is_frame(&e->nodes[node])) {
        visit(m, node, 0, 0, parent);
        return;
    }
    int32_t start = lexeme_start(e, node);
    if (lexeme_live(e, node, start)) {
        Config config = {node, start, parent};
        PUSH(e, m->found, config);
    }
    if (lexeme_accepts(e, node, start)) open(m, parent);
}

/* Read the symbols from `dot` on, which are not over, and then go on at position `arg`. */
static void follow(Machine *m, int32_t node, int32_t dot, int64_t arg, int32_t parent) {
    const Node *n = &m->engine->nodes[node];
    int32_t rest = n->code[dot + 1] >= 0 ? push_cont(m, node, dot + 1, arg, parent)
        : arg == DONE ? parent : push_cont(m, node, 0, arg, parent);
    enter(m, n->base + n->code[dot], rest);
}

static int fits(const Engine *e, int32_t node, int32_t depth) {
    return e->costs[node].bytes < INFINITE && depth + e->costs[node].depth <= MAX_NESTING;
}

/* One option of the frame at `v`: the symbols at `dot`, and the position afterwards. */
static void offer(Machine *m, const Visit *v, int32_t dot, int64_t after, int32_t depth) {
    Engine *e = m->engine;
    const Node *n = &e->nodes[v->node];
    for (const int32_t *symbol = n->code + dot; *symbol >= 0; symbol++)
        if (!fits(e, n->base + *symbol, depth)) return;
    if (after != DONE) {
        Cost rest = cost_at(e, v->node, after);
        if (rest.bytes >= INFINITE
            || m->conts.at[v->parent].depth + rest.depth > MAX_NESTING) return;
    }
    if (n->code[dot] >= 0) follow(m, v->node, dot, after, v->parent);
    else if (after == DONE) open(m, v->parent);
    else visit(m, v->node, 0, after, v->parent);
}

/* The same repetition with fewer rounds used can do all that one with more can, if it may stop. */
static int has_fewer_rounds(Machine *m, const Visit *v) {
    int32_t before = m->visited.n, i = 0;
    visit(m, v->node, -1, 0, v->parent); /* a mark that the repetition has been met */
    if (m->visited.n > before) return 0;
    for (;; i++) {
        const Visit *other = &m->visited.at[i];
        if (other->node == v->node && other->dot == 0 && other->parent == v->parent)
            return other->arg < v->arg;
    }
}

static void offer_repeat(Machine *m, const Visit *v, int32_t depth) {
    Engine *e = m->engine;
    const Node *n = &e->nodes[v->node];
    int32_t item = n->base + n->code[1], low = repeat_low(e, n), high = n->code[3];
    if (v->arg >= low) open(m, v->parent);
    if (high >= 0 && v->arg >= high && v->arg < UNCOUNTED) return;
    int64_t after = v->arg >= UNCOUNTED ? v->arg : high < 0 && v->arg + 1 > low ? low : v->arg + 1;
    if (fits(e, item, depth) && cost_at(e, v->node, after).bytes < INFINITE
        && m->conts.at[v->parent].depth + cost_at(e, v->node, after).depth <= MAX_NESTING)
        enter(m, item, push_cont(m, v->node, 0, after, v->parent));
}

/* NETWORK: code is kind, whether it nests, n states, the limit (-1: none), where in the code each
 * state is, and, with a limit, what each needs.  A state is the number of options, then of each the
 * position afterwards and the list.  With a limit, the position also counts the options so far
 * that read something, n for each. */
static void offer_network(Machine *m, const Visit *v, int32_t depth) {
    const Node *n = &m->engine->nodes[v->node];
    int32_t states = n->code[2], limit = n->code[3];
    int64_t state = limit < 0 ? v->arg : v->arg % states, count = v->arg / states;
    const int32_t *option = n->code + n->code[4 + state], *needs = n->code + 4 + states;
    for (int32_t left = *option++; left > 0; left--) {
        int64_t after = *option++;
        int32_t dot = (int32_t)(option - n->code);
        if (limit >= 0 && after != DONE) {
            int64_t total = count + (*option >= 0 && count < UNCOUNTED);
            int fits_in = count >= UNCOUNTED || total + needs[after] <= limit;
            if (fits_in) offer(m, v, dot, after + states * total, depth);
        } else {
            offer(m, v, dot, after, depth);
        }
        while (*option >= 0) option++;
        option++;
    }
}

/* UNORDERED: code is kind, n members, n extras, low, high, comma, open, close, empty; then for each
 * entry the lists (open key value) and (comma key value), each ended by -1; then which members
 * are required (1), or leading (2 and its place among these): while one of them is missing, the
 * first missing one comes, or a member after the last one read and up to a missing one. */
static void offer_unordered(Machine *m, const Visit *v, int32_t depth) {
    const Node *n = &m->engine->nodes[v->node];
    int32_t members = n->code[1], extras = n->code[2], low = n->code[3], high = n->code[4];
    int64_t read = v->arg & (((int64_t)1 << members) - 1), others = v->arg >> members;
    int64_t declared = __builtin_popcountll((uint64_t)read);
    int room = high < 0 || declared + others < high;
    int complete = declared + (others > 0) >= low;
    const int32_t *required = n->code + 9 + 8 * (members + extras);
    int32_t next = -1, gate = -1, last_read = -1;
    for (int32_t i = 0; i < members; i++) {
        if (v->arg >> i & 1) last_read = i;
        else if (required[i] > 1 && gate < 0) next = gate = i;
        else if (required[i] > 1 && required[i] < required[next]) next = i;
    }
    for (int32_t i = 0; i < members; i++) {
        if (v->arg >> i & 1) continue;
        if (gate >= 0 && i != next && (i <= last_read || i > gate)) continue;
        if (required[i]) complete = 0;
        if (room) offer(m, v, 9 + 8 * i + (v->arg ? 4 : 0), v->arg | (int64_t)1 << i, depth);
    }
    if (gate >= 0) return;
    int64_t counted = high >= 0 || !others;
    for (int32_t i = members; room && i < members + extras; i++)
        offer(m, v, 9 + 8 * i + (v->arg ? 4 : 0), v->arg + (counted << members), depth);
    int32_t last = n->base + n->code[v->arg ? 7 : 8];
    if (complete && fits(m->engine, last, depth)) enter(m, last, v->parent);
}

static void offer_all(Machine *m, const Visit *v) {
    Engine *e = m->engine;
    const Node *n = &e->nodes[v->node];
    int32_t depth = m->conts.at[v->parent].depth;
    if (v->dot) {
        follow(m, v->node, v->dot, v->arg, v->parent);
        return;
    }
    switch (n->kind) {
    case SEQUENCE: offer(m, v, 2, DONE, depth); break;
    case ALTERNATIVES:
        for (int32_t i = 0; i < n->code[1]; i++) {
            int32_t item = n->base + n->code[2 + i];
            if (fits(e, item, depth)) enter(m, item, v->parent);
        }
        break;
    case REPEAT:
        if (repeat_low(e, n) > 0 || !has_fewer_rounds(m, v)) offer_repeat(m, v, depth);
        break;
    case NETWORK: offer_network(m, v, depth + n->code[1]); break;
    default: offer_unordered(m, v, depth + 1);
    }
}

void expand(Machine *m, int32_t cont) {
    Engine *e = m->engine;
    if (m->conts.at[cont].n_first >= 0) return;
    if (m->unfinished && m->seen) memset(m->seen, 0, 4 * ((size_t)m->seen_mask + 1));
    m->unfinished = 1;
    m->found.n = 0;
    m->visited.n = 0;
    open(m, cont);
    for (int32_t i = 0; i < m->visited.n; i++) {
        const Visit v = m->visited.at[i]; /* a copy: the list may move */
        if (v.dot >= 0) offer_all(m, &v);
    }
    for (int32_t i = 0; i < m->visited.n; i++) { /* empty the hash table */
        const Visit *v = &m->visited.at[i];
        uint64_t at = hash_place(v->node, v->dot, v->arg, v->parent) & (uint64_t)m->seen_mask;
        while (m->seen[at]) {
            m->seen[at] = 0;
            at = (at + 1) & (uint64_t)m->seen_mask;
        }
    }
    m->unfinished = 0;
    Config *found = m->found.at;
    int32_t n = sort_configs(m, &found, m->found.n);
    n = keep_nearest(m, found, n);
    Config *kept = allocate(e, n * (int64_t)sizeof *kept);
    if (n) memcpy(kept, found, (size_t)n * sizeof *kept);
    m->conts.at[cont].first = kept;
    m->conts.at[cont].n_first = n;
}

/* Continuations, the configurations they begin with, states, and rows. */
#include "grammar.h"

static int32_t push(Machine *m, int32_t node, int32_t dot, int64_t arg, int32_t parent);

Machine *new_machine(Engine *e, int32_t root) {
    Machine *m = allocate(e, sizeof *m);
    memset(m, 0, sizeof *m);
    m->engine = e;
    m->root = root;
    Cont end = {0, 0, NULL, ACCEPT, 0, -1, 0, -1, -1};
    PUSH(e, m->conts, end);
    if (e->costs[root].bytes < INFINITE) m->start = state_after_cont(m, push(m, root, 0, 0, END));
    else m->start = intern_merged(m);
    return m;
}

/* Hash tables: numbers + 1 in slots, at most half of them used. */

static int32_t *grow_slots(Engine *e, int32_t *slots, int32_t *mask) {
    int32_t size = *mask ? 2 * (*mask + 1) : 16;
    slots = resize(e, slots, 4 * (int64_t)size);
    memset(slots, 0, 4 * (size_t)size);
    *mask = size - 1;
    return slots;
}

static uint64_t hash_place(int32_t node, int32_t dot, int64_t arg, int32_t parent) {
    return mix(mix((uint64_t)(uint32_t)node << 32 | (uint32_t)dot, (uint64_t)arg), (uint64_t)parent);
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
static int32_t push(Machine *m, int32_t node, int32_t dot, int64_t arg, int32_t parent) {
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
    int32_t rest = n->code[dot + 1] >= 0 ? push(m, node, dot + 1, arg, parent)
        : arg == DONE ? parent : push(m, node, 0, arg, parent);
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
    if (high >= 0 && v->arg >= high) return;
    int64_t after = high < 0 && v->arg + 1 > low ? low : v->arg + 1;
    if (fits(e, item, depth) && cost_at(e, v->node, after).bytes < INFINITE
        && m->conts.at[v->parent].depth + cost_at(e, v->node, after).depth <= MAX_NESTING)
        enter(m, item, push(m, v->node, 0, after, v->parent));
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
            int64_t total = count + (*option >= 0);
            if (total + needs[after] <= limit) offer(m, v, dot, after + states * total, depth);
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
        for (int32_t i = 0; i < n->code[1]; i++)
            if (fits(e, n->base + n->code[2 + i], depth)) enter(m, n->base + n->code[2 + i], v->parent);
        break;
    case REPEAT:
        if (repeat_low(e, n) > 0 || !has_fewer_rounds(m, v)) offer_repeat(m, v, depth);
        break;
    case NETWORK: offer_network(m, v, depth + n->code[1]); break;
    default: offer_unordered(m, v, depth + 1);
    }
}

static int is_less(const Config *a, const Config *b) {
    uint64_t x = (uint64_t)(uint32_t)(a->node + 1) << 32 | (uint32_t)a->local;
    uint64_t y = (uint64_t)(uint32_t)(b->node + 1) << 32 | (uint32_t)b->local;
    return x != y ? x < y : a->cont < b->cont;
}

/* Sort by merging runs, of which there are few; leave one of equals. */
static int32_t sort(Machine *m, Config **list, int32_t n) {
    int32_t runs = 1;
    Config *from = *list;
    for (int32_t i = 1; i < n; i++) runs += !is_less(&from[i - 1], &from[i]);
    if (runs == 1) return n;
    RESERVE(m->engine, m->sorted, 2 * n);
    memcpy(m->sorted.at, from, (size_t)n * sizeof *from);
    from = m->sorted.at;
    Config *to = from + n;
    while (runs > 1) {
        int32_t done = 0, a = 0, made = 0;
        while (a < n) {
            int32_t b = a + 1, end;
            while (b < n && is_less(&from[b - 1], &from[b])) b++;
            for (end = b + 1; end < n && is_less(&from[end - 1], &from[end]);) end++;
            if (end > n) end = n;
            int32_t i = a, j = b;
            while (i < b && j < end) {
                if (is_less(&from[j], &from[i])) {
                    to[done++] = from[j++];
                } else {
                    if (!is_less(&from[i], &from[j])) j++;
                    to[done++] = from[i++];
                }
            }
            while (i < b) to[done++] = from[i++];
            while (j < end) to[done++] = from[j++];
            a = end;
            made++;
        }
        Config *other = from;
        from = to;
        to = other;
        n = done;
        runs = made;
    }
    *list = from;
    return n;
}

static void expand(Machine *m, int32_t cont) {
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
    int32_t n = sort(m, &found, m->found.n);
    if (n > MAX_CONFIGURATIONS) fail(e, TOO_AMBIGUOUS);
    Config *kept = allocate(e, n * (int64_t)sizeof *kept);
    if (n) memcpy(kept, found, (size_t)n * sizeof *kept);
    m->conts.at[cont].first = kept;
    m->conts.at[cont].n_first = n;
}

/* States. */

static uint32_t hash_configs(const Config *list, int32_t n) {
    uint64_t hash = (uint64_t)n;
    for (int32_t i = 0; i < n; i++) {
        uint64_t place = (uint64_t)(uint32_t)list[i].local << 32 | (uint32_t)list[i].cont;
        hash = mix(hash ^ (uint64_t)(uint32_t)list[i].node * 0xA24BAED4963EE407ull, place);
    }
    return (uint32_t)hash;
}

static int32_t distance_of(Machine *m, const Config *list, int32_t n) {
    int64_t least = FAR;
    for (int32_t i = 0; i < n; i++) {
        if (list[i].node == ACCEPT) return 0;
        int64_t bytes = m->conts.at[list[i].cont].bytes;
        if (bytes >= least) continue;
        bytes += lexeme_distance(m->engine, list[i].node, list[i].local);
        if (bytes < least) least = bytes;
    }
    return (int32_t)least;
}

/* The number of the state of sorted, distinct configurations. */
static int32_t intern(Machine *m, const Config *list, int32_t n) {
    Engine *e = m->engine;
    if (2 * m->states.n >= m->state_mask) {
        m->state_slots = grow_slots(e, m->state_slots, &m->state_mask);
        for (int32_t i = 0; i < m->states.n; i++) {
            uint32_t at = m->states.at[i].hash & (uint32_t)m->state_mask;
            while (m->state_slots[at]) at = (at + 1) & (uint32_t)m->state_mask;
            m->state_slots[at] = i + 1;
        }
    }
    uint32_t hash = hash_configs(list, n), at = hash & (uint32_t)m->state_mask;
    for (; m->state_slots[at]; at = (at + 1) & (uint32_t)m->state_mask) {
        const State *known = &m->states.at[m->state_slots[at] - 1];
        if (known->hash == hash && known->n == n
            && (n == 0 || !memcmp(known->configs, list, (size_t)n * sizeof *list)))
            return m->state_slots[at] - 1;
    }
    if (e->n_states >= e->max_states) fail(e, TOO_MANY_STATES);
    State state = {NULL, NULL, hash, n, distance_of(m, list, n), 0, 0};
    state.accepts = n > 0 && list[0].node == ACCEPT;
    state.live = n > state.accepts;
    state.configs = allocate(e, n * (int64_t)sizeof *list);
    if (n) memcpy(state.configs, list, (size_t)n * sizeof *list);
    PUSH(e, m->states, state);
    m->state_slots[at] = m->states.n;
    e->n_states++;
    return m->states.n - 1;
}

/* The state of what is in `merged`, in any order. */
int32_t intern_merged(Machine *m) {
    Config *list = m->merged.at;
    int32_t n = sort(m, &list, m->merged.n);
    if (n > MAX_CONFIGURATIONS) fail(m->engine, TOO_AMBIGUOUS);
    return intern(m, list, n);
}

int32_t state_after_cont(Machine *m, int32_t cont) {
    if (m->conts.at[cont].state < 0) {
        expand(m, cont);
        int32_t state = intern(m, m->conts.at[cont].first, m->conts.at[cont].n_first);
        m->conts.at[cont].state = state;
    }
    return m->conts.at[cont].state;
}

/* Add to `merged` the configurations once a lexeme has come to a state. */
static void reach(Machine *m, Config config) {
    Engine *e = m->engine;
    if (lexeme_live(e, config.node, config.local)) PUSH(e, m->merged, config);
    if (!lexeme_accepts(e, config.node, config.local)) return;
    expand(m, config.cont);
    const Cont *cont = &m->conts.at[config.cont];
    RESERVE(e, m->merged, m->merged.n + cont->n_first);
    if (cont->n_first)
        memcpy(m->merged.at + m->merged.n, cont->first, (size_t)cont->n_first * sizeof config);
    m->merged.n += cont->n_first;
}

/* Rows. */

/* The classes of several configurations; a literal costs no more than its one byte. */
static const ClassMap *joined_map(Machine *m, const Config *list, int32_t n) {
    Engine *e = m->engine;
    const ClassMap *seen[8] = {NULL};
    uint8_t of[256] = {0}, own[256] = {0};
    int32_t classes = 1, places = 0;
    for (int32_t i = 0; i < n; i++) {
        const Node *node = &e->nodes[list[i].node];
        if (node->kind == LITERAL) {
            own[node->data[node->code[1] + list[i].local]] = 1;
            continue;
        }
        const ClassMap *map = lexeme_map(e, list[i].node, list[i].local);
        int known = 0;
        for (int32_t k = 0; k < 8; k++) known |= seen[k] == map;
        if (known) continue;
        seen[places++ & 7] = map;
        classes = refine(e, of, classes, map);
    }
    for (int byte = 0; byte < 256; byte++) {
        if (!own[byte]) continue;
        if (classes > 255) fail(e, TOO_AMBIGUOUS);
        of[byte] = (uint8_t)classes++;
    }
    return intern_map(e, of);
}

Row *make_row(Machine *m, int32_t state) {
    const State *st = &m->states.at[state];
    const Config *list = st->configs + st->accepts;
    int32_t n = st->n - st->accepts;
    if (n == 0) return m->states.at[state].row = &end_row;
    const ClassMap *map = n == 1 ? lexeme_map(m->engine, list->node, list->local)
        : joined_map(m, list, n);
    Row *row = new_row(m->engine, map);
    m->states.at[state].row = row;
    return row;
}

/* The target of `byte`, whose place in the row is still unknown. */
int32_t resolve(Machine *m, int32_t state, int byte, Row *row) {
    Engine *e = m->engine;
    const Config *list = m->states.at[state].configs;
    int32_t n = m->states.at[state].n, target;
    m->merged.n = 0;
    for (int32_t i = 0; i < n; i++) {
        if (list[i].node == ACCEPT) continue;
        Config config = list[i];
        config.local = lexeme_step(e, config.node, config.local, byte);
        if (config.local == DEAD) continue;
        if (n == 1 && !lexeme_live(e, config.node, config.local)) {
            target = state_after_cont(m, config.cont);
            return row->target[row->map->of[byte]] = target;
        }
        reach(m, config);
    }
    target = m->merged.n ? intern_merged(m) : DEAD;
    return row->target[row->map->of[byte]] = target;
}

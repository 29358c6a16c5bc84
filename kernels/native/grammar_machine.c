/* States, which are sorted sets of configurations, and their rows. */
#include "grammar.h"

Machine *new_machine(Engine *e, int32_t root) {
    Machine *m = allocate(e, sizeof *m);
    memset(m, 0, sizeof *m);
    m->engine = e;
    m->root = root;
    Cont end = {0, 0, NULL, ACCEPT, 0, -1, 0, -1, -1};
    PUSH(e, m->conts, end);
    int possible = e->costs[root].bytes < INFINITE;
    m->start = possible ? state_after_cont(m, push_cont(m, root, 0, 0, END)) : intern_merged(m);
    return m;
}

static int is_less(const Config *a, const Config *b) {
    uint64_t x = (uint64_t)(uint32_t)(a->node + 1) << 32 | (uint32_t)a->local;
    uint64_t y = (uint64_t)(uint32_t)(b->node + 1) << 32 | (uint32_t)b->local;
    return x != y ? x < y : a->cont < b->cont;
}

/* Sort by merging runs, of which there are few; leave one of equals. */
int32_t sort_configs(Machine *m, Config **list, int32_t n) {
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

static int64_t nearness(Machine *m, const Config *config, int32_t index) {
    return (int64_t)distance_of(m, config, 1) << 32 | index;
}

static int ascending(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Of more configurations than a state may have, keep those that are nearest to the end, in their
 * order; returns how many there are then.  Each can still end, so this leaves no trap: what cannot
 * be read any more are some of the texts that can be read in very many ways so far. */
int32_t keep_nearest(Machine *m, Config *list, int32_t n) {
    if (n <= MAX_CONFIGURATIONS) return n;
    m->engine->crowded = 1;
    int64_t *keys = malloc((size_t)n * sizeof *keys);
    if (!keys) fail(m->engine, TOO_LARGE);
    for (int32_t i = 0; i < n; i++) keys[i] = nearness(m, &list[i], i);
    qsort(keys, (size_t)n, sizeof *keys, ascending);
    const int64_t last = keys[MAX_CONFIGURATIONS - 1];
    free(keys);
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (nearness(m, &list[i], i) <= last) list[kept++] = list[i];
    return kept;
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
    int32_t n = sort_configs(m, &list, m->merged.n);
    n = keep_nearest(m, list, n);
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

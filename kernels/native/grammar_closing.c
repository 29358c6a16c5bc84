/* How many tokens are enough to complete a text: grammars/closing.py, counted on demand.
 *
 * Of a node only those ways are looked at that are as cheap, in bytes and nesting, as its cheapest.
 */
#include "grammar_vocabulary.h"

static int64_t add(int64_t a, int64_t b) { return a + b < INFINITE ? a + b : INFINITE; }

/* Lexemes. */

static struct Known *known_place(Closing *c, int32_t node, int32_t local) {
    uint64_t at = mix((uint64_t)node, (uint64_t)local) & (uint64_t)c->known_mask;
    for (; c->known[at].node != -1; at = (at + 1) & (uint64_t)c->known_mask)
        if (c->known[at].node == node && c->known[at].local == local) break;
    return &c->known[at];
}

static void remember(Closing *c, int32_t node, int32_t local, int64_t tokens) {
    if (2 * c->n_known >= c->known_mask) {
        struct Known *old = c->known;
        int32_t size = old ? c->known_mask + 1 : 0, larger = old ? 2 * size : 64;
        c->known = resize(c->e, NULL, larger * (int64_t)sizeof *old);
        c->known_mask = larger - 1;
        for (int32_t i = 0; i < larger; i++) c->known[i].node = -1;
        for (int32_t i = 0; i < size; i++)
            if (old[i].node != -1) *known_place(c, old[i].node, old[i].local) = old[i];
        release(c->e, old);
    }
    struct Known *place = known_place(c, node, local);
    c->n_known += place->node == -1;
    *place = (struct Known){node, local, tokens};
}

/* A byte that leads nearer to the lexeme's end: the least that is a token, else the least. */
static int nearer_byte(Closing *c, int32_t node, int32_t local, int32_t *target) {
    Engine *e = c->e;
    const ClassMap *map = lexeme_map(e, node, local);
    int32_t distance = lexeme_distance(e, node, local), found = -1;
    int8_t leads[256];
    int32_t to[256];
    memset(leads, -1, sizeof leads);
    for (int byte = 0; byte < 256; byte++) {
        int class = map->of[byte];
        if (!class) continue;
        if (leads[class] < 0) {
            to[class] = lexeme_step(e, node, local, byte);
            leads[class] = to[class] != DEAD && lexeme_distance(e, node, to[class]) == distance - 1;
        }
        if (!leads[class]) continue;
        int writes = c->v->byte_is_token[byte];
        if (found < 0 || writes) {
            found = byte;
            *target = to[class];
        }
        if (writes) break;
    }
    return found;
}

/* The fewest tokens that write `text` from each place in it on. */
static void count_fewest(Closing *c) {
    const Trie *trie = &c->v->all;
    int32_t n = c->text.n;
    RESERVE(c->e, c->fewest, n + 1);
    int64_t *fewest = c->fewest.at;
    fewest[n] = 0;
    for (int32_t i = n - 1; i >= 0; i--) {
        fewest[i] = INFINITE;
        int32_t node = 0;
        for (int32_t j = i; j < n && j < i + LONGEST_TOKEN; j++) {
            node = child_of(trie, node, c->text.at[j]);
            if (node < 0) break;
            if (is_token(trie, node) && fewest[j + 1] + 1 < fewest[i])
                fewest[i] = fewest[j + 1] + 1;
        }
    }
}

/* Tokens of the shortest way to the end of a lexeme. */
static int64_t lexeme_tokens(Closing *c, int32_t node, int32_t local) {
    Engine *e = c->e;
    if (c->known) {
        const struct Known *place = known_place(c, node, local);
        if (place->node != -1) return place->tokens;
    }
    int32_t distance = lexeme_distance(e, node, local);
    if (distance > LONGEST_LEXEME) return INFINITE;
    c->path.n = 0;
    c->text.n = 0;
    Config place = {node, local, 0};
    const Node *n = &e->nodes[node];
    for (; distance > 0; distance--) {
        int32_t target = place.local + 1;
        int byte = n->kind == LITERAL ? n->data[n->code[1] + place.local]
            : nearer_byte(c, node, place.local, &target);
        if (byte < 0) return INFINITE;
        PUSH(e, c->path, place);
        PUSH(e, c->text, (uint8_t)byte);
        place.local = target;
    }
    count_fewest(c);
    for (int32_t i = 0; i < c->path.n; i++) remember(c, node, c->path.at[i].local, c->fewest.at[i]);
    return c->fewest.at[0];
}

static int all_tokens(const uint8_t byte_is_token[256], const uint8_t *text, int32_t size) {
    for (int32_t i = 0; i < size; i++)
        if (!byte_is_token[text[i]]) return 0;
    return 1;
}

/* A literal that is one token and that no byte but a token begins: nobody can stop inside. */
static int is_special(const Vocabulary *v, const uint8_t *text, int32_t size) {
    int32_t node = 0;
    for (int32_t i = 0; i < size && node >= 0; i++) {
        node = child_of(&v->all, node, text[i]);
        if (node >= 0 && i + 1 < size && is_token(&v->all, node)) return 0;
    }
    return node > 0 && text[0] == 0xFF && is_token(&v->all, node);
}

/* Of a TABLE, whose states are laid out as in grammar_lexeme.c. */
static int is_plain_table(const Node *n, const uint8_t byte_is_token[256]) {
    const int32_t *code = n->code, *states = code + 3;
    for (int32_t i = 0; i < code[1]; i++) {
        const int32_t *state = states + 5 * i, *targets = code + state[4];
        const uint8_t *map = n->data + state[2];
        int32_t left = 256;
        if (state[1] <= 0) continue;
        for (; left > 0; left--) {
            int32_t byte = (0x20 - left) & 255; /* from 0x20 on: the commonest are soon met */
            if (!map[byte] || !byte_is_token[byte]) continue;
            if (states[5 * targets[map[byte] - 1] + 1] == state[1] - 1) break;
        }
        if (!left) return 0;
    }
    return 1;
}

/* Find the lexemes from every state of which single bytes lead nearer to the end. */
void find_plain(Closing *c) {
    Engine *e = c->e;
    const uint8_t *byte_is_token = c->v->byte_is_token;
    c->plain = allocate(e, e->n_nodes + 1);
    c->all_plain = c->v->writes_strings;
    for (int32_t i = 0; i < e->n_nodes; i++) {
        const Node *n = &e->nodes[i];
        const int32_t *code = n->code;
        int plain = 1;
        if (n->kind == LITERAL) {
            plain = all_tokens(byte_is_token, n->data + code[1], code[2])
                || is_special(c->v, n->data + code[1], code[2]);
        } else if (n->kind == WORDS) {
            plain = all_tokens(byte_is_token, n->data + code[2], code[2 + code[1]] - code[2]);
            if (!plain) {
                plain = 1;
                for (int32_t k = 0; k < code[1] && plain; k++) {
                    const uint8_t *word = n->data + code[2 + k];
                    int32_t size = code[3 + k] - code[2 + k];
                    plain = all_tokens(byte_is_token, word, size) || is_special(c->v, word, size);
                }
            }
        } else if (n->kind == TABLE) {
            plain = is_plain_table(n, byte_is_token);
        } else if (n->kind == TEXT) {
            plain = c->v->writes_strings;
        } else if (n->kind == WITHOUT) { /* so few words leave single bytes in every place */
            const Node *inner = &e->nodes[n->base + code[1]];
            plain = inner->kind == TEXT && c->v->writes_strings
                && e->nodes[n->base + code[2]].code[1] <= 4096;
        } else if (n->kind == MACHINE) {
            plain = -1;
        }
        c->plain[i] = (int8_t)plain;
        c->all_plain = c->all_plain && plain;
    }
    for (int32_t i = 0; i < e->n_nodes; i++) /* machines only know the nodes of their own plan */
        if (c->plain[i] < 0) c->plain[i] = (int8_t)c->all_plain;
}

/* Nodes and positions.  A vertex is worked out together with all that it depends on. */

static int32_t vertex_of(const Engine *e, int32_t node, int64_t position) {
    const Node *n = &e->nodes[node];
    return n->kind == NETWORK ? n->net + (int32_t)(position % n->code[2]) : node;
}

static int is_network(const Engine *e, int32_t node) { return e->nodes[node].kind == NETWORK; }

/* Tokens of a node as far as they are known; while `collecting`, note that they are needed. */
static int64_t tokens_of(Closing *c, int32_t node, int64_t position, int collecting) {
    int32_t vertex = vertex_of(c->e, node, position), place = vertex - c->e->nodes[node].net;
    if (c->vertices.at[vertex] < 0 && collecting) {
        Config need = {node, is_network(c->e, node) ? place : 0, 0};
        c->vertices.at[vertex] = INFINITE;
        PUSH(c->e, c->path, need);
    }
    return c->vertices.at[vertex] < 0 ? INFINITE : c->vertices.at[vertex];
}

static int64_t list_tokens(Closing *c, const Node *n, const int32_t *symbol, int collecting) {
    int64_t sum = 0;
    for (; *symbol >= 0; symbol++)
        sum = add(sum, tokens_of(c, n->base + *symbol, 0, collecting));
    return sum;
}

static int64_t network_tokens(Closing *c, const Node *n, int32_t position, int collecting) {
    Engine *e = c->e;
    const Cost *costs = e->costs, whole = costs[n->net + position];
    int64_t least = INFINITE;
    const int32_t *option = n->code + n->code[4 + position];
    for (int32_t left = *option++; left > 0; left--) {
        int32_t after = *option++, depth = 0;
        int64_t bytes = 0;
        const int32_t *symbols = option;
        for (; *option >= 0; option++) {
            const Cost *cost = &costs[n->base + *option];
            bytes += cost->bytes;
            if (cost->depth > depth) depth = cost->depth;
        }
        option++;
        depth += n->code[1];
        if (after != DONE) {
            const Cost *cost = &costs[n->net + after];
            bytes += cost->bytes;
            if (cost->depth > depth) depth = cost->depth;
        }
        if (bytes != whole.bytes || depth != whole.depth) continue;
        int64_t sum = list_tokens(c, n, symbols, collecting);
        if (after != DONE) {
            int32_t node = (int32_t)(n - e->nodes);
            sum = add(sum, tokens_of(c, node, after, collecting));
        }
        if (sum < least) least = sum;
    }
    return least;
}

typedef struct { int64_t bytes, tokens; int32_t depth; } Member;

static int is_cheaper(const Member *a, const Member *b) {
    if (a->bytes != b->bytes) return a->bytes < b->bytes;
    return a->depth != b->depth ? a->depth < b->depth : a->tokens < b->tokens;
}

static int64_t unordered_tokens(Closing *c, const Node *n, int64_t arg, int collecting) {
    int32_t members = n->code[1], extras = n->code[2], low = n->code[3];
    const int32_t *required = n->code + 9 + 8 * (members + extras);
    int64_t others = arg >> members, count = 0, spare = 0, sum = 0;
    int64_t declared = __builtin_popcountll((uint64_t)(arg & (((int64_t)1 << members) - 1)));
    Member rest[64], other = {INFINITE, INFINITE, 0};
    for (int32_t i = 0; i < members; i++) count += required[i] && !(arg >> i & 1);
    int64_t missing = low - declared - (others > 0) - count;
    if (missing < 0) missing = 0;
    if (!arg && !count && !missing) return tokens_of(c, n->base + n->code[8], 0, collecting);
    for (int32_t i = 0; i < members + extras; i++) {
        if (i < members && ((arg >> i & 1) || (!required[i] && !missing))) continue;
        if (i >= members && (!missing || others)) continue;
        const int32_t *entry = n->code + 9 + 8 * i;
        const Cost *key = &c->e->costs[n->base + entry[1]];
        const Cost *value = &c->e->costs[n->base + entry[2]];
        int64_t tokens = add(tokens_of(c, n->base + entry[1], 0, collecting),
                             tokens_of(c, n->base + entry[2], 0, collecting));
        Member both = {key->bytes + value->bytes, tokens,
                       key->depth > value->depth ? key->depth : value->depth};
        if (i >= members) {
            if (is_cheaper(&both, &other)) other = both;
        } else if (required[i]) {
            sum = add(sum, tokens);
        } else {
            rest[spare++] = both;
        }
    }
    if (missing && !others) rest[spare++] = other;
    for (int64_t i = 0; i < missing && i < spare; i++) {
        for (int64_t k = i + 1; k < spare; k++)
            if (is_cheaper(&rest[k], &rest[i])) {
                Member swap = rest[i];
                rest[i] = rest[k];
                rest[k] = swap;
            }
        sum = add(sum, rest[i].tokens);
    }
    count += missing;
    int64_t comma = tokens_of(c, n->base + n->code[5], 0, collecting);
    int64_t open = tokens_of(c, n->base + n->code[6], 0, collecting);
    int64_t commas = arg ? count : count - 1;
    int64_t signs = comma >= INFINITE && commas ? INFINITE : comma * commas;
    sum = add(sum, arg ? signs : add(open, signs));
    return add(sum, tokens_of(c, n->base + n->code[7], 0, collecting));
}

/* The least tokens among the cheapest texts of a frame at a position. */
static int64_t frame_tokens(Closing *c, int32_t node, int64_t arg, int collecting) {
    Engine *e = c->e;
    const Node *n = &e->nodes[node];
    int64_t least = INFINITE, rounds;
    switch (n->kind) {
    case SEQUENCE: return list_tokens(c, n, n->code + 2, collecting);
    case ALTERNATIVES:
        for (int32_t i = 0; i < n->code[1]; i++) {
            int32_t item = n->base + n->code[2 + i];
            if (e->costs[item].bytes != e->costs[node].bytes
                || e->costs[item].depth != e->costs[node].depth) continue;
            int64_t tokens = tokens_of(c, item, 0, collecting);
            if (tokens < least) least = tokens;
        }
        return least;
    case REPEAT:
        rounds = repeat_low(e, n) - arg;
        if (rounds <= 0) return 0;
        least = tokens_of(c, n->base + n->code[1], 0, collecting);
        return least < INFINITE / rounds ? least * rounds : INFINITE;
    case NETWORK: return network_tokens(c, n, (int32_t)(arg % n->code[2]), collecting);
    default: return unordered_tokens(c, n, arg, collecting);
    }
}

/* Tokens of a frame or lexeme at position `arg`. */
static int64_t tokens_at(Closing *c, int32_t node, int64_t arg) {
    Engine *e = c->e;
    const Node *n = &e->nodes[node];
    if (cost_at(e, node, arg).bytes >= INFINITE) return INFINITE;
    int direct = is_frame(n) && n->kind != NETWORK && arg != 0; /* no vertex of its own */
    if (!direct && c->vertices.at[vertex_of(e, node, arg)] >= 0)
        return c->vertices.at[vertex_of(e, node, arg)];
    VECTOR(Config) all = {NULL, 0, 0};
    if (c->unfinished) memset(c->vertices.at, -1, 8 * (size_t)c->vertices.n);
    c->unfinished = 1;
    c->path.n = 0;
    if (direct) frame_tokens(c, node, arg, 1);
    else tokens_of(c, node, arg, 1);
    while (c->path.n) { /* all that is needed, what comes first last */
        Config need = c->path.at[--c->path.n];
        PUSH(e, all, need);
        if (is_frame(&e->nodes[need.node])) frame_tokens(c, need.node, need.local, 1);
    }
    for (int32_t i = 0; i < all.n; i++)
        if (!is_frame(&e->nodes[all.at[i].node])) {
            int32_t lexeme = all.at[i].node;
            c->vertices.at[lexeme] = lexeme_tokens(c, lexeme, lexeme_start(e, lexeme));
        }
    for (int changed = 1; changed;) {
        changed = 0;
        for (int32_t i = all.n - 1; i >= 0; i--) {
            if (!is_frame(&e->nodes[all.at[i].node])) continue;
            int32_t vertex = vertex_of(e, all.at[i].node, all.at[i].local);
            int64_t tokens = frame_tokens(c, all.at[i].node, all.at[i].local, 0);
            if (tokens >= c->vertices.at[vertex]) continue;
            c->vertices.at[vertex] = tokens;
            changed = 1;
        }
    }
    release(e, all.at);
    c->unfinished = 0;
    return direct ? frame_tokens(c, node, arg, 0) : c->vertices.at[vertex_of(e, node, arg)];
}

/* Continuations and states. */

int64_t cont_tokens(Closing *c, int32_t cont) {
    Engine *e = c->e;
    const Machine *m = e->machine;
    while (c->conts.n < m->conts.n) PUSH(e, c->conts, -1);
    c->conts.at[END] = 0;
    int32_t top = c->order.n;
    for (; c->conts.at[cont] < 0; cont = m->conts.at[cont].parent) PUSH(e, c->order, cont);
    int64_t total = c->conts.at[cont];
    while (c->order.n > top) {
        const Cont place = m->conts.at[c->order.at[--c->order.n]];
        const Node *n = &e->nodes[place.node];
        if (place.dot)
            for (const int32_t *symbol = n->code + place.dot; *symbol >= 0; symbol++)
                total = add(total, tokens_at(c, n->base + *symbol, 0));
        if (!place.dot || place.arg != DONE)
            total = add(total, tokens_at(c, place.node, place.arg));
        c->conts.at[c->order.at[c->order.n]] = total;
    }
    return total;
}

/* Up to NEVER_CLOSES. */
int32_t tokens_to_close(Closing *c, int32_t state) {
    Engine *e = c->e;
    const State st = e->machine->states.at[state];
    while (c->states.n <= state) PUSH(e, c->states, -1);
    if (c->states.at[state] >= 0) return c->states.at[state];
    int64_t least = NEVER_CLOSES;
    c->order.n = 0;
    for (int32_t i = 0; i < st.n; i++) {
        const Config config = st.configs[i];
        int64_t tokens = config.node == ACCEPT ? 0
            : add(lexeme_tokens(c, config.node, config.local), cont_tokens(c, config.cont));
        if (tokens < least) least = tokens;
    }
    return c->states.at[state] = (int32_t)least;
}

/* By one configuration that can be written byte by byte up to its lexeme's end, or by counting. */
int closes_slowly(Closing *c, int32_t state) {
    Engine *e = c->e;
    const State st = e->machine->states.at[state];
    while (c->closes.n <= state) PUSH(e, c->closes, -1);
    int found = 0;
    c->order.n = 0;
    for (int32_t i = 0; i < st.n && !found; i++) {
        const Config config = st.configs[i];
        found = config.node == ACCEPT
            || (c->plain[config.node] && cont_tokens(c, config.cont) < NEVER_CLOSES - LONGEST_LEXEME
                && lexeme_distance(e, config.node, config.local) <= LONGEST_LEXEME);
    }
    if (!found) found = tokens_to_close(c, state) < NEVER_CLOSES;
    return c->closes.at[state] = (int8_t)found;
}

/* Plans from outside: checked, so that nothing in them can lead astray, then made into an engine.
 *
 * A plan is int32 words: MAGIC, the number of segments, the root (in the last segment); then for
 * each segment: nodes, words of code, bytes of data, imports; the segments (by number) that are
 * imported; where the code of each node begins; the code; the data, filled up to whole words.
 * Node numbers in code count from the segment's first node.  A MACHINE names an import and a node
 * of it.  grammars/plan.py writes it.
 */
#include "grammar.h"

enum { MAGIC = 0x31504753, MAX_NODES = 1 << 20 };

typedef struct { int32_t nodes, code, data, imports, base; } Segment;

typedef struct {
    Engine *e;
    const int32_t *at, *end;
    Segment *segments;
    int32_t index; /* of the segment being read */
    const int32_t *imports;
    const int32_t *code_end;
} Reader;

static int32_t take(Reader *r) {
    if (r->at >= r->end) fail(r->e, BAD_PLAN);
    return *r->at++;
}

static void check(Reader *r, int holds) {
    if (!holds) fail(r->e, BAD_PLAN);
}

static const int32_t *take_many(Reader *r, int64_t n) {
    check(r, n >= 0 && n <= r->end - r->at);
    const int32_t *found = r->at;
    r->at += n;
    return found;
}

/* `n` words of code from `offset` on. */
static void check_code(Reader *r, const Node *n, int64_t offset, int64_t size) {
    check(r, offset >= 1 && size >= 0 && offset + size <= r->code_end - n->code);
}

static void check_node(Reader *r, int32_t number) {
    check(r, number >= 0 && number < r->segments[r->index].nodes);
}

/* A list of nodes that ends with -1, from `offset` on; the offset after it. */
static int64_t check_list(Reader *r, const Node *n, int64_t offset) {
    for (;; offset++) {
        check_code(r, n, offset, 1);
        if (n->code[offset] == -1) return offset + 1;
        check_node(r, n->code[offset]);
    }
}

static void check_words(Reader *r, const Node *n) {
    const int32_t *code = n->code;
    int32_t size = r->segments[r->index].data;
    if (n->kind == LITERAL) {
        check_code(r, n, 1, 2);
        check(r, code[1] >= 0 && code[2] >= 0 && code[2] <= size - code[1]);
        return;
    }
    check_code(r, n, 1, 1);
    check(r, code[1] > 0);
    check_code(r, n, 2, (int64_t)code[1] + 1);
    check(r, code[2] >= 0 && code[2 + code[1]] <= size);
    for (int32_t i = 0; i < code[1]; i++) check(r, code[2 + i] <= code[3 + i]);
    for (int32_t i = 1; i < code[1]; i++) { /* each word above the one before */
        int32_t a = code[2 + i] - code[1 + i], b = code[3 + i] - code[2 + i];
        int order = memcmp(n->data + code[1 + i], n->data + code[2 + i], (size_t)(a < b ? a : b));
        check(r, order < 0 || (order == 0 && a < b));
    }
}

static void check_table(Reader *r, const Node *n) {
    const int32_t *code = n->code;
    check_code(r, n, 1, 2);
    check(r, code[1] > 0 && code[2] >= 0 && code[2] < code[1]);
    check_code(r, n, 3, 5 * (int64_t)code[1]);
    for (int32_t i = 0; i < code[1]; i++) {
        const int32_t *state = code + 3 + 5 * i;
        check(r, state[2] >= 0 && state[2] <= r->segments[r->index].data - 256);
        check(r, state[3] >= 0 && state[3] <= 255);
        if (state[3]) check_code(r, n, state[4], state[3]);
        const uint8_t *map = n->data + state[2];
        uint8_t largest = 0;
        for (int byte = 0; byte < 256; byte++) largest = map[byte] > largest ? map[byte] : largest;
        check(r, largest <= state[3]);
        for (int32_t k = 0; k < state[3]; k++)
            check(r, code[state[4] + k] >= 0 && code[state[4] + k] < code[1]);
    }
}

static int is_lexeme(const Node *n) { return n->kind < SEQUENCE; }

static void check_lexeme(Reader *r, Node *n) {
    const int32_t *code = n->code;
    switch (n->kind) {
    case LITERAL: case WORDS: check_words(r, n); break;
    case TABLE: check_table(r, n); break;
    case TEXT:
        check_code(r, n, 1, 3);
        check(r, (code[1] == 0 || code[1] == 1) && code[2] >= 0 && code[2] <= 1 << 26);
        check(r, code[3] == -1 || (code[3] >= code[2] && code[3] <= 1 << 26));
        break;
    case MACHINE: {
        check_code(r, n, 1, 2);
        check(r, code[1] >= 0 && code[1] < r->segments[r->index].imports);
        const Segment *other = &r->segments[r->imports[code[1]]];
        check(r, code[2] >= 0 && code[2] < other->nodes);
        int32_t *resolved = allocate(r->e, 8);
        resolved[0] = MACHINE;
        resolved[1] = other->base + code[2];
        n->code = resolved;
        break;
    }
    default: check_code(r, n, 1, 2); /* what it names is checked once all are known */
    }
}

static void check_network(Reader *r, const Node *n) {
    const int32_t *code = n->code;
    check_code(r, n, 1, 3);
    check(r, (code[1] == 0 || code[1] == 1) && code[2] > 0 && code[3] >= -1);
    check_code(r, n, 4, (code[3] < 0 ? 1 : 2) * (int64_t)code[2]);
    for (int32_t state = 0; state < code[2]; state++) {
        int64_t offset = code[4 + state];
        check(r, code[3] < 0 || code[4 + code[2] + state] >= 0);
        check_code(r, n, offset, 1);
        for (int32_t left = code[offset++]; left > 0; left--) {
            check_code(r, n, offset, 1);
            check(r, code[offset] >= DONE && code[offset] < code[2]);
            offset = check_list(r, n, offset + 1);
        }
    }
}

static void check_frame(Reader *r, const Node *n) {
    const int32_t *code = n->code;
    if (n->kind == NETWORK) {
        check_network(r, n);
    } else if (n->kind == REPEAT) {
        check_code(r, n, 1, 3);
        check_node(r, code[1]);
        check(r, code[2] >= 0 && code[3] >= -1);
    } else if (n->kind == UNORDERED) {
        check_code(r, n, 1, 8);
        check(r, code[1] >= 0 && code[1] <= 62 && code[2] >= 0 && code[2] < MAX_NODES);
        check(r, code[3] >= 0 && code[4] >= -1);
        for (int i = 5; i < 9; i++) check_node(r, code[i]);
        int64_t lists = 2 * ((int64_t)code[1] + code[2]), offset = 9;
        for (; lists > 0; lists--) {
            int64_t start = offset;
            offset = check_list(r, n, offset);
            check(r, offset == start + 4);
        }
        check_code(r, n, offset, code[1]);
    } else {
        check(r, n->kind == SEQUENCE || n->kind == ALTERNATIVES);
        check_code(r, n, 1, 1);
        int64_t size = code[1];
        check(r, size >= 0 && check_list(r, n, 2) == size + 3);
    }
}

static void read_segment(Reader *r) {
    Engine *e = r->e;
    Segment *s = &r->segments[r->index];
    s->nodes = take(r);
    s->code = take(r);
    s->data = take(r);
    s->imports = take(r);
    s->base = e->n_nodes;
    check(r, s->nodes >= 0 && s->code >= 0 && s->data >= 0 && s->imports >= 0);
    check(r, s->nodes <= MAX_NODES - e->n_nodes);
    r->imports = take_many(r, s->imports);
    for (int32_t i = 0; i < s->imports; i++)
        check(r, r->imports[i] >= 0 && r->imports[i] < r->index);
    const int32_t *offsets = take_many(r, s->nodes);
    const int32_t *code = take_many(r, s->code);
    r->code_end = code + s->code;
    const uint8_t *data = (const uint8_t *)take_many(r, ((int64_t)s->data + 3) / 4);
    for (int32_t i = 0; i < s->nodes; i++) {
        check(r, offsets[i] >= 0 && offsets[i] < s->code);
        Node node = {code + offsets[i], data, code[offsets[i]], s->base, -1, NULL};
        e->nodes[s->base + i] = node;
        Node *n = &e->nodes[s->base + i];
        if (is_frame(n)) check_frame(r, n);
        else if (n->kind >= LITERAL && n->kind <= WITHOUT) check_lexeme(r, n);
        else fail(e, BAD_PLAN);
    }
    e->n_nodes += s->nodes;
    for (int32_t i = s->base; i < e->n_nodes; i++) {
        const Node *n = &e->nodes[i];
        if (n->kind != WITHOUT) continue;
        for (int k = 1; k < 3; k++) check_node(r, n->code[k]);
        const Node *inner = &e->nodes[s->base + n->code[1]];
        check(r, is_lexeme(inner) && inner->kind != WITHOUT);
        check(r, e->nodes[s->base + n->code[2]].kind == WORDS);
    }
}

static int32_t count_nodes(Reader r, int32_t segments) {
    int64_t total = 0;
    for (int32_t i = 0; i < segments; i++) {
        int64_t nodes = take(&r), code = take(&r), data = take(&r), imports = take(&r);
        check(&r, nodes >= 0 && code >= 0 && data >= 0 && imports >= 0);
        take_many(&r, imports + nodes + code + (data + 3) / 4);
        total += nodes;
        check(&r, total <= MAX_NODES);
    }
    return (int32_t)total;
}

/* Fails with BAD_PLAN, or with what is wrong with the grammar itself. */
void load_plan(Engine *e, const void *data, int64_t size) {
    e->ints = allocate(e, size + 4);
    memcpy(e->ints, data, (size_t)size);
    Reader r = {e, e->ints, e->ints + size / 4, NULL, 0, NULL, NULL};
    check(&r, size % 4 == 0 && take(&r) == MAGIC);
    int32_t segments = take(&r), root = take(&r);
    check(&r, segments > 0 && segments <= MAX_NODES);
    int32_t total = count_nodes(r, segments);
    e->nodes = allocate(e, (total + 1) * (int64_t)sizeof *e->nodes);
    r.segments = allocate(e, segments * (int64_t)sizeof *r.segments);
    for (; r.index < segments; r.index++) read_segment(&r);
    check(&r, r.at == r.end && root >= 0 && root < r.segments[segments - 1].nodes);
    e->root = r.segments[segments - 1].base + root;
    e->n_vertices = e->n_nodes;
    for (int32_t i = 0; i < e->n_nodes; i++) {
        if (e->nodes[i].kind != NETWORK) continue;
        e->nodes[i].net = e->n_vertices;
        e->n_vertices += e->nodes[i].code[2];
    }
    e->costs = allocate(e, (e->n_vertices + 1) * (int64_t)sizeof *e->costs);
    find_costs(e);
    refuse_left_recursion(e);
    e->machine = new_machine(e, e->root);
}

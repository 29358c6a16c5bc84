/* What the nodes of a plan cost at least: a least fixed point, as in grammars/pushdown.py. */
#include "grammar.h"

static const Cost NEVER = {INFINITE, 0};

static Cost then(Cost a, Cost b) {
    if (a.bytes + b.bytes >= INFINITE) return NEVER;
    Cost sum = {a.bytes + b.bytes, a.depth > b.depth ? a.depth : b.depth};
    return sum;
}

static Cost times(Cost a, int64_t count) {
    Cost sum = {0, 0};
    if (count <= 0) return sum;
    if (a.bytes >= INFINITE || a.bytes * count >= INFINITE) return NEVER;
    sum.bytes = a.bytes * count;
    sum.depth = a.depth;
    return sum;
}

static Cost nested(Cost a) {
    a.depth += a.bytes < INFINITE;
    return a;
}

static int cheaper(Cost a, Cost b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.depth < b.depth;
}

static Cost of_list(const Engine *e, const Node *n, const int32_t *symbol) {
    Cost sum = {0, 0};
    for (; *symbol >= 0; symbol++) sum = then(sum, e->costs[n->base + *symbol]);
    return sum;
}

/* Where a round may be empty, the least number of rounds says nothing. */
int32_t repeat_low(const Engine *e, const Node *n) {
    return e->costs[n->base + n->code[1]].bytes == 0 ? 0 : n->code[2];
}

/* What is required, and the cheapest of the rest while members are missing. */
static Cost unordered_cost(const Engine *e, const Node *n, int64_t arg) {
    int32_t members = n->code[1], extras = n->code[2], low = n->code[3], high = n->code[4];
    const int32_t *required = n->code + 9 + 8 * (members + extras);
    int64_t others = arg >> members, count = 0, spare = 0;
    int64_t declared = __builtin_popcountll((uint64_t)(arg & (((int64_t)1 << members) - 1)));
    Cost rest[64], sum = {0, 0}, other = NEVER;
    for (int32_t i = 0; i < members + extras; i++) {
        const int32_t *entry = n->code + 9 + 8 * i;
        Cost both = then(e->costs[n->base + entry[1]], e->costs[n->base + entry[2]]);
        if (i >= members) {
            if (cheaper(both, other)) other = both;
        } else if (!(arg >> i & 1)) {
            if (required[i]) {
                sum = then(sum, both);
                count++;
            } else {
                rest[spare++] = both;
            }
        }
    }
    int64_t missing = low - declared - (others > 0) - count;
    if (missing < 0) missing = 0;
    if (high >= 0 && declared + others + count + missing > high) return NEVER;
    if (!arg && !count && !missing) return nested(e->costs[n->base + n->code[8]]);
    if (missing && !others) rest[spare++] = other;
    if (spare < missing) return NEVER;
    for (int64_t i = 0; i < missing; i++) { /* the cheapest first */
        for (int64_t k = i + 1; k < spare; k++)
            if (cheaper(rest[k], rest[i])) {
                Cost swap = rest[i];
                rest[i] = rest[k];
                rest[k] = swap;
            }
        sum = then(sum, rest[i]);
    }
    count += missing;
    Cost comma = e->costs[n->base + n->code[5]], open = e->costs[n->base + n->code[6]];
    Cost signs = arg ? times(comma, count) : then(open, times(comma, count - 1));
    return nested(then(then(signs, sum), e->costs[n->base + n->code[7]]));
}

/* What is left of a frame at a position; a lexeme has only position 0. */
Cost cost_at(const Engine *e, int32_t node, int64_t arg) {
    const Node *n = &e->nodes[node];
    if (n->kind == NETWORK) return e->costs[n->net + arg % n->code[2]];
    if (arg == 0) return e->costs[node];
    if (n->kind == REPEAT)
        return times(e->costs[n->base + n->code[1]], (int64_t)repeat_low(e, n) - arg);
    return unordered_cost(e, n, arg);
}

/* Rounds over the states, last first, until nothing changes: forward steps need two. */
static Cost network_cost(Engine *e, const Node *n) {
    Cost *found = e->costs + n->net;
    int32_t states = n->code[2], changed = 1;
    int nests = n->code[1];
    while (changed) {
        changed = 0;
        for (int32_t state = states - 1; state >= 0; state--) {
            const int32_t *option = n->code + n->code[4 + state];
            Cost least = found[state];
            for (int32_t left = *option++; left > 0; left--) {
                int32_t after = *option++;
                Cost cost = of_list(e, n, option);
                while (*option >= 0) option++;
                option++;
                if (after != DONE) {
                    Cost rest = found[after];
                    rest.depth -= nests && rest.bytes < INFINITE;
                    cost = then(cost, rest);
                }
                if (nests) cost = nested(cost);
                if (cheaper(cost, least)) least = cost;
            }
            if (cheaper(least, found[state])) {
                found[state] = least;
                changed = 1;
            }
        }
    }
    return found[0];
}

static Cost frame_cost(Engine *e, int32_t node) {
    const Node *n = &e->nodes[node];
    Cost least = NEVER;
    switch (n->kind) {
    case SEQUENCE: return of_list(e, n, n->code + 2);
    case ALTERNATIVES:
        for (int32_t i = 0; i < n->code[1]; i++)
            if (cheaper(e->costs[n->base + n->code[2 + i]], least))
                least = e->costs[n->base + n->code[2 + i]];
        return least;
    case REPEAT: return times(e->costs[n->base + n->code[1]], n->code[2]);
    case NETWORK: return network_cost(e, n);
    default: return unordered_cost(e, n, 0);
    }
}

static Cost lexeme_cost(Engine *e, int32_t node) {
    const Node *n = &e->nodes[node];
    Cost cost = {INFINITE, 0};
    if (n->kind == MACHINE) {
        cost.bytes = e->costs[n->code[1]].bytes;
        return cost;
    }
    int32_t bytes = lexeme_distance(e, node, lexeme_start(e, node));
    if (bytes >= 0 && bytes < FAR) cost.bytes = bytes;
    return cost;
}

typedef VECTOR(int32_t) List;

/* Append every node that a frame may read. */
static void add_children(Engine *e, const Node *n, List *list) {
    const int32_t *code = n->code;
    if (n->kind == SEQUENCE || n->kind == ALTERNATIVES) {
        for (int32_t i = 0; i < code[1]; i++) PUSH(e, *list, n->base + code[2 + i]);
    } else if (n->kind == REPEAT) {
        PUSH(e, *list, n->base + code[1]);
    } else if (n->kind == NETWORK) {
        for (int32_t state = 0; state < code[2]; state++) {
            const int32_t *option = code + code[4 + state];
            for (int32_t left = *option++; left > 0; left--) {
                for (option++; *option >= 0; option++) PUSH(e, *list, n->base + *option);
                option++;
            }
        }
    } else if (n->kind == UNORDERED) {
        for (int32_t i = 5; i < 9; i++) PUSH(e, *list, n->base + code[i]);
        for (int32_t i = 0; i < code[1] + code[2]; i++) {
            PUSH(e, *list, n->base + code[9 + 8 * i + 1]);
            PUSH(e, *list, n->base + code[9 + 8 * i + 2]);
        }
    }
}

/* Who reads each node: users[first[n]] to users[first[n + 1]]. */
static void find_users(Engine *e, List *first, List *users) {
    List children = {NULL, 0, 0};
    RESERVE(e, *first, e->n_nodes + 2);
    memset(first->at, 0, 4 * ((size_t)e->n_nodes + 2));
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t node = 0; node < e->n_nodes; node++) {
            if (!is_frame(&e->nodes[node])) continue;
            children.n = 0;
            add_children(e, &e->nodes[node], &children);
            for (int32_t i = 0; i < children.n; i++) {
                if (pass) users->at[first->at[children.at[i] + 1]++] = node;
                else first->at[children.at[i] + 2]++;
            }
        }
        if (pass) break;
        for (int32_t i = 2; i < e->n_nodes + 2; i++) first->at[i] += first->at[i - 1];
        RESERVE(e, *users, first->at[e->n_nodes + 1] + 1);
    }
    release(e, children.at);
}

/* Lexemes may be machines over nodes with smaller numbers, so the nodes are done in their order:
 * first all of one base, then those of the next. */
void find_costs(Engine *e) {
    List first = {NULL, 0, 0}, users = {NULL, 0, 0}, queue = {NULL, 0, 0};
    find_users(e, &first, &users);
    char *waiting = allocate(e, e->n_nodes + 1);
    memset(waiting, 0, (size_t)e->n_nodes + 1);
    for (int32_t vertex = 0; vertex < e->n_vertices; vertex++) e->costs[vertex] = NEVER;
    for (int32_t start = 0, end; start < e->n_nodes; start = end) {
        queue.n = 0;
        for (end = start; end < e->n_nodes && e->nodes[end].base == e->nodes[start].base; end++) {
            if (is_frame(&e->nodes[end])) {
                PUSH(e, queue, end);
                waiting[end] = 1;
            } else if (e->nodes[end].kind != WITHOUT) {
                e->costs[end] = lexeme_cost(e, end);
            }
        }
        for (int32_t node = start; node < end; node++)
            if (e->nodes[node].kind == WITHOUT) e->costs[node] = lexeme_cost(e, node);
        for (int32_t done = 0; done < queue.n; done++) {
            int32_t node = queue.at[done];
            waiting[node] = 0;
            Cost cost = frame_cost(e, node);
            if (!cheaper(cost, e->costs[node])) continue;
            e->costs[node] = cost;
            for (int32_t i = first.at[node]; i < first.at[node + 1]; i++)
                if (!waiting[users.at[i]]) {
                    waiting[users.at[i]] = 1;
                    PUSH(e, queue, users.at[i]);
                }
        }
    }
    release(e, first.at);
    release(e, users.at);
    release(e, queue.at);
}

/* Append the nodes that a node can begin with before any byte is read. */
static void add_first(Engine *e, const Node *n, List *list, char *met) {
    const int32_t *code = n->code;
    if (n->kind == SEQUENCE) {
        for (int32_t i = 0; i < code[1]; i++) {
            PUSH(e, *list, n->base + code[2 + i]);
            if (e->costs[n->base + code[2 + i]].bytes > 0) return;
        }
    } else if (n->kind == ALTERNATIVES || n->kind == REPEAT) {
        add_children(e, n, list);
    } else if (n->kind == NETWORK) {
        List states = {NULL, 0, 0};
        memset(met, 0, (size_t)code[2]);
        PUSH(e, states, 0);
        met[0] = 1;
        for (int32_t done = 0; done < states.n; done++) {
            const int32_t *option = code + code[4 + states.at[done]];
            for (int32_t left = *option++; left > 0; left--) {
                int32_t after = *option++, empty = 1;
                for (; *option >= 0; option++) {
                    if (empty) PUSH(e, *list, n->base + *option);
                    empty = empty && e->costs[n->base + *option].bytes == 0;
                }
                option++;
                if (empty && after != DONE && !met[after]) {
                    met[after] = 1;
                    PUSH(e, states, after);
                }
            }
        }
        release(e, states.at);
    }
}

typedef struct { int32_t node, next, end; } Path;

/* Fails if some node can begin with itself. */
void refuse_left_recursion(Engine *e) {
    enum { NEW, ACTIVE, OVER };
    char *met = allocate(e, e->n_vertices + 1), *mark = allocate(e, e->n_nodes + 1);
    memset(mark, NEW, (size_t)e->n_nodes + 1);
    List found = {NULL, 0, 0};
    VECTOR(Path) path = {NULL, 0, 0};
    for (int32_t root = 0; root < e->n_nodes; root++) {
        int32_t node = root;
        while (node >= 0) {
            if (mark[node] == ACTIVE) fail(e, LEFT_RECURSION);
            if (mark[node] == NEW) {
                Path place = {node, found.n, 0};
                mark[node] = ACTIVE;
                add_first(e, &e->nodes[node], &found, met);
                place.end = found.n;
                PUSH(e, path, place);
            }
            node = -1;
            while (path.n && node < 0) {
                Path *top = &path.at[path.n - 1];
                if (top->next < top->end) {
                    node = found.at[top->next++];
                    if (mark[node] == OVER || !is_frame(&e->nodes[node])) node = -1;
                } else {
                    mark[top->node] = OVER;
                    path.n--;
                }
            }
        }
        found.n = 0;
    }
    release(e, found.at);
    release(e, path.at);
}

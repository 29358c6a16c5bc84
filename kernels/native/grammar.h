/* The grammar machine: a lazily determinised pushdown automaton over bytes, in C.
 *
 * grammars/pushdown.py is its specification; plans come from grammars/plan.py.  An Engine holds one
 * plan and all that is built on demand while it is used.  No number of a state, a continuation or
 * a lexeme state ever changes its meaning.  Every entry from outside (sg_...) sets a jump; whatever
 * goes wrong inside leaves through fail(), at points where all that was built so far is whole.  An
 * engine is for one thread at a time.
 */
#ifndef SGEN_GRAMMAR_H
#define SGEN_GRAMMAR_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DEAD = -1, UNKNOWN = -2 };  /* targets in rows: none, and not yet made */
enum { DONE = -1 };                /* a frame's position once it is over */
enum { END = 0 };                  /* the empty continuation */
#define UNCOUNTED ((int64_t)1 << 32) /* from this count on, rounds are not counted */
enum { ACCEPT = -1 };              /* the node of the configuration of a finished text */

enum {
    LITERAL = 0, WORDS = 1, TABLE = 2, TEXT = 3, MACHINE = 4, WITHOUT = 5, /* lexemes */
    SEQUENCE = 8, ALTERNATIVES = 9, REPEAT = 10, NETWORK = 11, UNORDERED = 12 /* frames */
};

enum {
    FINE = 0, NO_MEMORY = 1, BAD_PLAN = 2, LEFT_RECURSION = 3, TOO_MANY_STATES = 4,
    TOO_AMBIGUOUS = 5, TOO_LARGE = 6, TOO_MUCH_WORK = 7
};

#define INFINITE ((int64_t)1 << 40)
#define FAR INT32_MAX
#define MAX_NESTING 200
#define MAX_CONFIGURATIONS 2000
#define MAX_VISITED (1 << 18)
#define FEW 8

#define PUBLIC __attribute__((visibility("default")))
#define VECTOR(type) struct { type *at; int32_t n, cap; }
#define RESERVE(e, v, size) \
    do { \
        if ((size) > (v).cap) { \
            int32_t cap_ = 2 * (v).cap > (size) ? 2 * (v).cap : (size) < 8 ? 8 : (size); \
            (v).at = resize((e), (v).at, (int64_t)cap_ * (int64_t)sizeof *(v).at); \
            (v).cap = cap_; \
        } \
    } while (0)
#define PUSH(e, v, item) do { RESERVE((e), (v), (v).n + 1); (v).at[(v).n++] = (item); } while (0)

/* A class for each byte; class 0: it cannot follow.  If only FEW can, `live` lists them. */
typedef struct ClassMap {
    uint8_t of[256];
    int32_t n_live, n_classes;
    uint64_t hash;
    uint8_t live[FEW];
} ClassMap;

typedef struct { const ClassMap *map; int32_t target[]; } Row;

/* The cheapest text of something: fewest bytes (INFINITE: none), then least nesting. */
typedef struct { int64_t bytes; int32_t depth; } Cost;

typedef struct {
    const int32_t *code; /* kind, then what the kind says; node numbers are relative to `base` */
    const uint8_t *data;
    int32_t kind, base;
    int32_t net; /* NETWORK: the vertex of its first position */
    void *lexeme; /* what a lexeme has built so far */
} Node;

typedef struct { int32_t node, local, cont; } Config;

/* A list of symbols from `dot` on and then the frame's position `arg`, or, if dot is 0, a frame at
 * position `arg`; and the continuation after it.  `depth`: how many levels of nesting are open. */
typedef struct {
    int64_t arg, bytes;
    Config *first; /* the configurations it begins with, once `n_first` >= 0 */
    int32_t node, dot, parent, depth, n_first, state;
} Cont;

typedef struct {
    Config *configs;
    Row *row;
    uint32_t hash;
    int32_t n, distance;
    int8_t accepts, live;
} State;

typedef struct { int64_t arg; int32_t node, dot, parent; } Visit;

typedef struct Engine Engine;

/* The automaton of one node: of the whole grammar, or of a MACHINE lexeme. */
typedef struct Machine {
    Engine *engine;
    int32_t root, start;
    VECTOR(Cont) conts;
    VECTOR(State) states;
    int32_t *cont_slots, *state_slots; /* hash tables of numbers + 1 */
    int32_t cont_mask, state_mask;
    VECTOR(Config) merged, sorted, found;
    VECTOR(Visit) visited;
    int32_t *seen; /* hash table of places in `visited` + 1 */
    int32_t seen_mask, unfinished; /* unfinished: what failed has left something in `seen` */
} Machine;

typedef struct Block { struct Block *before, *after; int64_t size, unused; } Block;

struct Engine {
    jmp_buf jump;
    int error;
    int32_t *ints;
    Node *nodes;
    int32_t n_nodes, root, n_vertices;
    Cost *costs; /* by vertex: nodes, then positions of networks */
    Block *blocks;
    char *free, *free_end;
    int64_t chunk, bytes, max_bytes;
    int32_t n_states, max_states;
    int32_t crowded; /* some state had more configurations than it may have */
    const ClassMap **maps;
    int32_t n_maps, map_mask;
    Machine *machine;
};

typedef struct { int32_t low, high, depth, distance; Row *row; } WordState;
typedef struct { VECTOR(WordState) states; } Words;
typedef struct { int32_t inner, word, distance; Row *row; } PairState;
typedef struct {
    VECTOR(PairState) states;
    VECTOR(int32_t) queue;
    int32_t *slots; /* hash table of numbers + 1 */
    int32_t mask;
} Without;

/* grammar_memory.c */
void fail(Engine *e, int error) __attribute__((noreturn, cold));
void *resize(Engine *e, void *old, int64_t size);
void release(Engine *e, void *block);
void *allocate(Engine *e, int64_t size);
const ClassMap *intern_map(Engine *e, const uint8_t of[256]);
void describe_map(ClassMap *map);
Row *new_row(Engine *e, const ClassMap *map);
int32_t refine(Engine *e, uint8_t cur[256], int32_t classes, const ClassMap *map);
const ClassMap *single_byte_map(int byte);
extern const ClassMap no_byte_map;
extern Row end_row;

/* grammar_plan.c */
void load_plan(Engine *e, const void *data, int64_t size);

/* grammar_costs.c */
void find_costs(Engine *e);
void refuse_left_recursion(Engine *e);
Cost cost_at(const Engine *e, int32_t node, int64_t arg);
int32_t repeat_low(const Engine *e, const Node *node);

/* grammar_text.c */
const ClassMap *text_map(const Node *node, int32_t local);
int32_t text_step(Engine *e, const Node *node, int32_t local, int byte);
int32_t text_distance(const Node *node, int32_t local);
int32_t text_between(int32_t local);
int32_t text_at(int32_t count);
int32_t text_low(const Node *node);
int32_t text_high(const Node *node);

/* grammar_lexeme.c */
int32_t lexeme_start(Engine *e, int32_t node);
const ClassMap *lexeme_map(Engine *e, int32_t node, int32_t local);
int32_t lexeme_step_slow(Engine *e, int32_t node, int32_t local, int byte);
int lexeme_live(Engine *e, int32_t node, int32_t local);
int lexeme_accepts(Engine *e, int32_t node, int32_t local);
int32_t lexeme_distance(Engine *e, int32_t node, int32_t local);

/* grammar_conts.c */
int32_t *grow_slots(Engine *e, int32_t *slots, int32_t *mask);
int32_t push_cont(Machine *m, int32_t node, int32_t dot, int64_t arg, int32_t parent);
void expand(Machine *m, int32_t cont);

/* grammar_machine.c */
int32_t sort_configs(Machine *m, Config **list, int32_t n);
Machine *new_machine(Engine *e, int32_t root);
int32_t keep_nearest(Machine *m, Config *list, int32_t n);
int32_t intern_merged(Machine *m);
int32_t state_after_cont(Machine *m, int32_t cont);
Row *make_row(Machine *m, int32_t state);
int32_t resolve(Machine *m, int32_t state, int byte, Row *row);

static inline Row *row_of(Machine *m, int32_t state) {
    Row *row = m->states.at[state].row;
    return row ? row : make_row(m, state);
}

/* The state after one more byte, or DEAD. */
static inline int32_t step(Machine *m, int32_t state, int byte) {
    Row *row = row_of(m, state);
    int32_t target = row->target[row->map->of[byte]];
    return target == UNKNOWN ? resolve(m, state, byte, row) : target;
}

static inline int32_t lexeme_step(Engine *e, int32_t node, int32_t local, int byte) {
    const Node *n = &e->nodes[node];
    if (n->kind == LITERAL)
        return local < n->code[2] && n->data[n->code[1] + local] == byte ? local + 1 : DEAD;
    return lexeme_step_slow(e, node, local, byte);
}

static inline int is_frame(const Node *node) { return node->kind >= SEQUENCE; }

static inline uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t x = (a ^ b * 0x9E3779B97F4A7C15ull) * 0xD6E8FEB86659FD93ull;
    return x ^ x >> 32;
}

/* Leaves the calling function with `value` where something fails inside. */
#define GUARD(e, value) do { (e)->error = FINE; if (setjmp((e)->jump)) return (value); } while (0)

#endif

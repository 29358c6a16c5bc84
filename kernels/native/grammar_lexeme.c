/* Lexemes: what each kind's states are.  Some are formulas or tables, others grow on demand. */
#include "grammar.h"

/* TABLE: code is kind, n, the start, then for each state: accepts, distance, map (in data), n
 * targets, where these are (in code). */
enum { TABLE_STATES = 3, TABLE_STRIDE = 5 };

static const int32_t *table_state(const Node *node, int32_t local) {
    return node->code + TABLE_STATES + TABLE_STRIDE * local;
}

static const ClassMap *table_map(Engine *e, Node *node, int32_t local) {
    const ClassMap **maps = node->lexeme;
    if (!maps) {
        int64_t size = node->code[1] * (int64_t)sizeof *maps;
        maps = node->lexeme = memset(allocate(e, size), 0, (size_t)size);
    }
    if (!maps[local]) maps[local] = intern_map(e, node->data + table_state(node, local)[2]);
    return maps[local];
}

/* WORDS: code is kind, n, and n + 1 offsets into data; a state is a range of them and a depth. */
static int32_t word_length(const Node *node, int32_t word) {
    return node->code[3 + word] - node->code[2 + word];
}

static int32_t new_word_state(Engine *e, Node *node, int32_t low, int32_t high, int32_t depth) {
    Words *words = node->lexeme;
    int32_t distance = FAR;
    for (int32_t i = low; i < high; i++) {
        int32_t left = word_length(node, i) - depth;
        if (left < distance) distance = left;
    }
    WordState state = {low, high, depth, distance, NULL};
    PUSH(e, words->states, state);
    return words->states.n - 1;
}

static Words *words_of(Engine *e, Node *node) {
    if (!node->lexeme) {
        Words *words = allocate(e, sizeof(Words));
        memset(words, 0, sizeof *words);
        node->lexeme = words;
    }
    Words *words = node->lexeme;
    if (!words->states.n) new_word_state(e, node, 0, node->code[1], 0);
    return words;
}

static int word_accepts(Engine *e, Node *node, int32_t local) {
    const WordState *state = &words_of(e, node)->states.at[local];
    return word_length(node, state->low) == state->depth;
}

static Row *word_row(Engine *e, Node *node, int32_t local) {
    Words *words = words_of(e, node);
    if (words->states.at[local].row) return words->states.at[local].row;
    const WordState state = words->states.at[local];
    int32_t first = state.low + word_accepts(e, node, local), classes = 0;
    uint8_t of[256] = {0};
    int32_t starts[257];
    for (int32_t i = first; i < state.high; i++) {
        uint8_t byte = node->data[node->code[2 + i] + state.depth];
        if (!of[byte]) {
            of[byte] = (uint8_t)++classes;
            starts[classes] = i;
        }
    }
    if (classes > 255) fail(e, TOO_AMBIGUOUS);
    Row *row = new_row(e, intern_map(e, of));
    for (int32_t class = 1; class <= classes; class++) {
        int32_t end = class < classes ? starts[class + 1] : state.high;
        row->target[class] = new_word_state(e, node, starts[class], end, state.depth + 1);
    }
    words->states.at[local].row = row;
    return row;
}

/* WITHOUT: code is kind, the automaton, the words; a state is a state of each (words: or DEAD). */
static int32_t pair_number(Engine *e, Without *w, int32_t inner, int32_t word) {
    if (2 * w->states.n >= w->mask) {
        int32_t size = w->mask ? 2 * (w->mask + 1) : 32;
        int32_t *slots = resize(e, w->slots, 4 * (int64_t)size);
        memset(slots, 0, 4 * (size_t)size);
        w->slots = slots;
        w->mask = size - 1;
        for (int32_t i = 0; i < w->states.n; i++) {
            uint64_t at = mix((uint64_t)w->states.at[i].inner, (uint64_t)w->states.at[i].word);
            for (at &= (uint64_t)w->mask; slots[at];) at = (at + 1) & (uint64_t)w->mask;
            slots[at] = i + 1;
        }
    }
    uint64_t at = mix((uint64_t)inner, (uint64_t)word) & (uint64_t)w->mask;
    for (; w->slots[at]; at = (at + 1) & (uint64_t)w->mask) {
        const PairState *known = &w->states.at[w->slots[at] - 1];
        if (known->inner == inner && known->word == word) return w->slots[at] - 1;
    }
    PairState state = {inner, word, -1, NULL};
    PUSH(e, w->states, state);
    w->slots[at] = w->states.n;
    return w->states.n - 1;
}

static Without *without_of(Engine *e, Node *node) {
    if (!node->lexeme) {
        Without *w = allocate(e, sizeof *w);
        memset(w, 0, sizeof *w);
        node->lexeme = w;
    }
    Without *w = node->lexeme;
    if (!w->states.n) {
        int32_t start = lexeme_start(e, node->base + node->code[1]);
        pair_number(e, w, start, lexeme_start(e, node->base + node->code[2]));
    }
    return w;
}

static Row *pair_row(Engine *e, Node *node, int32_t local) {
    Without *w = without_of(e, node);
    if (w->states.at[local].row) return w->states.at[local].row;
    int32_t inner = node->base + node->code[1], words = node->base + node->code[2];
    const PairState state = w->states.at[local];
    const ClassMap *map = lexeme_map(e, inner, state.inner);
    if (state.word == DEAD) return w->states.at[local].row = new_row(e, map);
    const ClassMap *word_map = lexeme_map(e, words, state.word);
    uint8_t of[256];
    memcpy(of, map->of, 256);
    int32_t classes = refine(e, of, map->n_classes, word_map);
    uint8_t kept[256] = {0};
    int seen[256] = {0};
    int32_t targets[256];
    for (int byte = 0; byte < 256; byte++) { /* a byte that only a word has, or ends one, is none */
        int class = of[byte];
        if (!class) continue;
        if (!seen[class]) {
            int32_t to = lexeme_step(e, inner, state.inner, byte);
            int32_t word = lexeme_step(e, words, state.word, byte);
            seen[class] = 1;
            targets[class] = DEAD;
            if (to != DEAD && !(word != DEAD && !lexeme_live(e, inner, to)
                                && lexeme_accepts(e, words, word)))
                targets[class] = pair_number(e, w, to, word);
        }
        if (targets[class] != DEAD) kept[byte] = (uint8_t)class;
    }
    Row *row = new_row(e, intern_map(e, kept));
    for (int32_t class = 1; class < row->map->n_classes; class++)
        row->target[class] = class < classes && seen[class] ? targets[class] : DEAD;
    w->states.at[local].row = row;
    return row;
}

static int32_t pair_step(Engine *e, Node *node, int32_t local, int byte) {
    Row *row = pair_row(e, node, local);
    int class = row->map->of[byte];
    if (row->target[class] == UNKNOWN) { /* past the words, as the automaton itself */
        Without *w = node->lexeme;
        int32_t to = lexeme_step(e, node->base + node->code[1], w->states.at[local].inner, byte);
        row->target[class] = to == DEAD ? DEAD : pair_number(e, w, to, DEAD);
    }
    return row->target[class];
}

static int pair_accepts(Engine *e, Node *node, int32_t local) {
    const PairState state = without_of(e, node)->states.at[local];
    return lexeme_accepts(e, node->base + node->code[1], state.inner)
        && (state.word == DEAD || !lexeme_accepts(e, node->base + node->code[2], state.word));
}

/* By a search that ends soon: off the words, the automaton's own distance holds. */
static int32_t pair_distance(Engine *e, Node *node, int32_t local) {
    Without *w = without_of(e, node);
    if (w->states.at[local].distance >= 0) return w->states.at[local].distance;
    int32_t inner = node->base + node->code[1], best = FAR, done = 0, level = 0, steps = 0;
    w->queue.n = 0;
    PUSH(e, w->queue, local);
    for (; done < w->queue.n && steps < best; steps++) {
        for (level = w->queue.n; done < level; done++) {
            int32_t at = w->queue.at[done];
            if (w->states.at[at].word == DEAD || pair_accepts(e, node, at)) {
                int32_t rest = lexeme_distance(e, inner, w->states.at[at].inner);
                if (rest < best - steps) best = steps + rest;
                continue;
            }
            Row *row = pair_row(e, node, at);
            for (int32_t class = 1; class < row->map->n_classes; class++) {
                int known = row->target[class] < 0;
                for (int32_t i = 0; i < w->queue.n && !known; i++)
                    known = w->queue.at[i] == row->target[class];
                if (!known) PUSH(e, w->queue, row->target[class]);
            }
        }
    }
    w->states.at[local].distance = best;
    return best;
}

static Machine *machine_of(Engine *e, Node *node) {
    if (!node->lexeme) node->lexeme = new_machine(e, node->code[1]);
    return node->lexeme;
}

int32_t lexeme_start(Engine *e, int32_t node) {
    Node *n = &e->nodes[node];
    if (n->kind == WORDS) words_of(e, n);
    if (n->kind == WITHOUT) without_of(e, n);
    if (n->kind == TABLE) return n->code[2];
    return n->kind == MACHINE ? machine_of(e, n)->start : 0;
}

const ClassMap *lexeme_map(Engine *e, int32_t node, int32_t local) {
    Node *n = &e->nodes[node];
    switch (n->kind) {
    case LITERAL:
        return local < n->code[2] ? single_byte_map(n->data[n->code[1] + local]) : &no_byte_map;
    case WORDS: return word_row(e, n, local)->map;
    case TABLE: return table_map(e, n, local);
    case TEXT: return text_map(n, local);
    case MACHINE: return row_of(machine_of(e, n), local)->map;
    default: return pair_row(e, n, local)->map;
    }
}

int32_t lexeme_step_slow(Engine *e, int32_t node, int32_t local, int byte) {
    Node *n = &e->nodes[node];
    switch (n->kind) {
    case WORDS: {
        Row *row = word_row(e, n, local);
        return row->target[row->map->of[byte]];
    }
    case TABLE: {
        int class = table_map(e, n, local)->of[byte];
        return class ? n->code[table_state(n, local)[4] + class - 1] : DEAD;
    }
    case TEXT: return text_step(e, n, local, byte);
    case MACHINE: return step(machine_of(e, n), local, byte);
    default: return pair_step(e, n, local, byte);
    }
}

int lexeme_live(Engine *e, int32_t node, int32_t local) {
    Node *n = &e->nodes[node];
    switch (n->kind) {
    case LITERAL: return local < n->code[2];
    case WORDS: {
        const WordState *state = &words_of(e, n)->states.at[local];
        return state->high - state->low > 1 || !word_accepts(e, n, local);
    }
    case TABLE: return table_state(n, local)[3] > 0;
    case TEXT: return local != 1;
    case MACHINE: return machine_of(e, n)->states.at[local].live;
    default: return lexeme_live(e, n->base + n->code[1], without_of(e, n)->states.at[local].inner);
    }
}

int lexeme_accepts(Engine *e, int32_t node, int32_t local) {
    Node *n = &e->nodes[node];
    switch (n->kind) {
    case LITERAL: return local == n->code[2];
    case WORDS: return word_accepts(e, n, local);
    case TABLE: return table_state(n, local)[0];
    case TEXT: return local == 1;
    case MACHINE: return machine_of(e, n)->states.at[local].accepts;
    default: return pair_accepts(e, n, local);
    }
}

int32_t lexeme_distance(Engine *e, int32_t node, int32_t local) {
    Node *n = &e->nodes[node];
    switch (n->kind) {
    case LITERAL: return n->code[2] - local;
    case WORDS: return words_of(e, n)->states.at[local].distance;
    case TABLE: return table_state(n, local)[1];
    case TEXT: return text_distance(n, local);
    case MACHINE: return machine_of(e, n)->states.at[local].distance;
    default: return pair_distance(e, n, local);
    }
}

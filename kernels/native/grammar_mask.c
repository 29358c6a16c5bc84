/* Which tokens may come next: walks of the token trie, and what is known of JSON strings.
 *
 * Tokens are allowed in a state if they are in one of its configurations alone.  So the
 * configurations that are inside a TEXT take their tokens from the vocabulary's TextTokens, and
 * one walk of the trie does the others.
 */
#include "grammar_vocabulary.h"

/* Whether a token may lead to a state; if so, the walk's bound is raised. */
int fits_after(Walk *w, int32_t state) {
    Closing *c = w->c;
    int32_t distance = c->e->machine->states.at[state].distance;
    if (w->remaining < NEVER_CLOSES) {
        int fits = c->all_plain && distance <= LONGEST_LEXEME && distance < w->remaining;
        if (!fits && tokens_to_close(c, state) >= w->remaining) return 0;
    } else if (!closes(c, state)) {
        return 0;
    }
    if (!c->all_plain) distance = NEVER_CLOSES - 1;
    if (distance > w->highest) w->highest = distance;
    return 1;
}

/* Allow the tokens that end at a node, in a state. */
void allow_node(Walk *w, int32_t node, int32_t state) {
    int32_t k = w->trie->at[node].ends, end = w->trie->at[node + 1].ends;
    if (k == end || !fits_after(w, state)) return;
    for (; k < end; k++)
        if (!w->before || (w->before[k] >= w->least && w->before[k] <= w->most))
            allow(w->out, w->trie->tokens[k]);
}

/* The subtrees of the children of a node. */
void walk(Walk *w, int32_t node, int32_t state) {
    const Trie *trie = w->trie;
    Machine *m = w->c->e->machine;
    int32_t first = trie->at[node].first, end = trie->at[node + 1].first;
    int begins = !w->plain && trie == &w->c->v->all && (node == 0 || node == w->c->v->space);
    if (begins && walk_loop(w, node, state)) return;
    Row *row = row_of(m, state);
    const ClassMap *map = row->map;
    if (map->n_live <= FEW && end - first > 2 * map->n_live) {
        for (int32_t i = 0; i < map->n_live; i++) {
            int32_t child = child_of(trie, node, map->live[i]);
            if (child < 0) continue;
            int32_t target = row->target[map->of[map->live[i]]];
            if (target == UNKNOWN) target = resolve(m, state, map->live[i], row);
            if (target == DEAD) continue;
            allow_node(w, child, target);
            if (trie->at[child].first < trie->at[child + 1].first) walk(w, child, target);
        }
        return;
    }
    for (int32_t child = first; child < end; child++) {
        int32_t target = row->target[map->of[trie->byte[child]]];
        if (target < 0) {
            if (target == DEAD) continue;
            target = resolve(m, state, trie->byte[child], row);
            if (target == DEAD) continue;
        }
        allow_node(w, child, target);
        if (trie->at[child].first < trie->at[child + 1].first) walk(w, child, target);
    }
}

/* Allow the tokens of at most so many characters. */
void allow_set(const Walk *w, const TokenSet *set, int32_t most) {
    int32_t n_words = w->c->v->n_words, rung = -1;
    while (rung + 1 < set->n_rungs && set->rungs[rung + 1] <= most) rung++;
    if (rung >= 0) {
        const uint32_t *bits = set->bits + (int64_t)rung * n_words;
        for (int32_t i = 0; i < n_words; i++) w->out[i] |= bits[i];
    }
    for (int32_t i = rung >= 0 ? set->ends[rung] : 0; i < set->n && set->chars[i] <= most; i++)
        allow(w->out, set->tokens[i]);
}

/* JSON strings. */

typedef struct {
    const TextTokens *tokens;
    int32_t low, high, count;   /* characters; high: or FAR */
    const Node *words;          /* words that the string must not be, if not NULL */
    int32_t word;               /* state of the words */
    int32_t cont;
    int64_t most;               /* tokens that are enough to close the text after any that fit */
} Inside;

enum { LONGEST_CHARACTER = 12 };

#define FILLED ((int64_t)1 << 31)

/* Whether a configuration is between two characters of a string whose tokens are known. */
static int is_inside(Closing *c, const Config *config, int64_t remaining, Inside *in) {
    Engine *e = c->e;
    if (config->node == ACCEPT || !c->v->writes_strings) return 0;
    const Node *node = &e->nodes[config->node];
    int32_t local = config->local;
    in->words = NULL;
    if (node->kind == WITHOUT) {
        const PairState pair = ((const Without *)node->lexeme)->states.at[local];
        if (pair.word != DEAD) in->words = &e->nodes[node->base + node->code[2]];
        in->word = pair.word;
        node = &e->nodes[node->base + node->code[1]];
        local = pair.inner;
    }
    if (node->kind != TEXT || (in->count = text_between(local)) < 0) return 0;
    in->tokens = &c->v->text[node->code[1]];
    in->low = text_low(node);
    in->high = text_high(node);
    in->cont = config->cont;
    int64_t most = LONGEST_CHARACTER + 1 + (in->low > in->count ? in->low - in->count : 0);
    if (most > LONGEST_LEXEME) return 0;
    int64_t bytes = e->machine->conts.at[in->cont].bytes;
    if (c->all_plain && most + bytes <= LONGEST_LEXEME) in->most = most + bytes;
    else in->most = most + cont_tokens(c, in->cont);
    return in->most < remaining;
}

/* The tokens that begin with the rest of a word: note those that are not yet allowed. */
static void exclude(Closing *c, const Inside *in, const uint32_t *out) {
    const Trie *trie = &c->v->all;
    const Node *node = in->words;
    const WordState state = ((const Words *)node->lexeme)->states.at[in->word];
    c->excluded.n = 0;
    for (int32_t i = state.low; i < state.high; i++) {
        const uint8_t *byte = node->data + node->code[2 + i] + state.depth;
        const uint8_t *end = node->data + node->code[3 + i];
        int32_t at = 0;
        for (; byte < end && at >= 0; byte++) at = child_of(trie, at, *byte);
        if (at < 0) continue;
        for (int32_t low = at, high = at + 1; low < high;) { /* its subtree, level by level */
            for (int32_t k = trie->at[low].ends; k < trie->at[high].ends; k++) {
                int32_t token = trie->tokens[k];
                if (!(out[token >> 5] >> (token & 31) & 1)) PUSH(c->e, c->excluded, token);
            }
            int32_t next = trie->at[low].first;
            high = trie->at[high].first;
            low = next;
        }
    }
}

static void walk_inside(Walk *w, const Inside *in) {
    Closing *c = w->c;
    const TextTokens *tokens = in->tokens;
    int32_t room = in->high == FAR ? FAR : in->high - in->count;
    allow_set(w, &tokens->inside, room);
    Machine *m = c->e->machine;
    if (in->most > w->highest) w->highest = (int32_t)in->most;
    if (in->words) exclude(c, in, w->out);
    Walk closing = *w;
    closing.trie = &tokens->after;
    closing.before = tokens->before;
    closing.least = in->low - in->count;
    closing.most = room;
    if (closing.least <= 0 && room == FAR) closing.before = NULL;
    int32_t state = state_after_cont(m, in->cont);
    allow_node(&closing, 0, state);
    walk(&closing, 0, state);
    if (closing.highest > w->highest) w->highest = closing.highest;
    if (in->words)
        for (int32_t i = 0; i < c->excluded.n; i++)
            w->out[c->excluded.at[i] >> 5] &= ~(1u << (c->excluded.at[i] & 31));
}

/* The state of the configurations that are not inside a string; what is inside is walked. */
static int32_t walk_strings(Walk *w, int32_t state) {
    Machine *m = w->c->e->machine;
    const State st = m->states.at[state];
    int32_t left = 0;
    Inside in;
    for (int32_t i = 0; i < st.n; i++) {
        if (is_inside(w->c, &st.configs[i], w->remaining, &in)) walk_inside(w, &in);
        else left++;
    }
    if (left == st.n) return state;
    m->merged.n = 0;
    for (int32_t i = 0; i < st.n; i++)
        if (!is_inside(w->c, &st.configs[i], w->remaining, &in))
            PUSH(m->engine, m->merged, st.configs[i]);
    return intern_merged(m);
}

/* Of the states that differ only in how far they are from both ends of a string, and allow the same
 * tokens, the first: the room may be as large as leaves out the same tokens. */
static int32_t same_mask(Closing *c, int32_t state) {
    Machine *m = c->e->machine;
    state = uncounted(c, m, state);
    const State st = m->states.at[state];
    int32_t changed = 0;
    Inside in;
    for (int32_t pass = 0; pass < 2; pass++) {
        if (pass) m->merged.n = 0;
        for (int32_t i = 0; i < st.n; i++) {
            Config config = st.configs[i];
            if (is_inside(c, &config, NEVER_CLOSES, &in) && !in.words && in.high != FAR
                && in.count >= in.low && c->e->nodes[config.node].kind == TEXT) {
                int32_t room = in.high - in.count, first = in.low;
                if (room < in.tokens->n_longer && in.high - in.tokens->longer[room] + 1 > first)
                    first = in.high - in.tokens->longer[room] + 1;
                changed |= first != in.count;
                config.local = text_at(first);
            }
            if (pass) PUSH(c->e, m->merged, config);
        }
        if (!changed) return state;
    }
    return intern_merged(m);
}

/* Write the mask of a state, unless it is known to be that of a state whose mask was made before
 * (`force`: always).  The state whose mask it is << 32 | FILLED if it was written | no less than
 * the tokens that close a text after any allowed one. */
static int64_t make_mask(Closing *c, int32_t state, int64_t remaining, uint32_t *out, int force) {
    Machine *m = c->e->machine;
    /* Where readings may be dropped, only a walk of all bytes knows which are. */
    int plain = c->e->crowded || m->states.at[state].n > MAX_CONFIGURATIONS / 4;
    int32_t same = plain ? state : same_mask(c, state);
    if (remaining >= NEVER_CLOSES) {
        remaining = NEVER_CLOSES;
        while (c->given.n <= same) PUSH(c->e, c->given, 0);
        if (c->given.at[same] && same != state && !force) return (int64_t)same << 32;
        c->given.at[same] = 1;
    }
    memset(out, 0, 4 * (size_t)c->v->n_words);
    Walk w = {c, &c->v->all, out, remaining, NULL, 0, 0, 0, plain};
    walk(&w, 0, plain ? state : walk_strings(&w, same));
    if (c->e->crowded && !plain) return make_mask(c, state, remaining, out, 1);
    if (m->states.at[state].accepts)
        for (int32_t i = 0; i < c->v->n_ends; i++) allow(out, c->v->ends[i]);
    return (int64_t)same << 32 | FILLED | w.highest;
}

/* From outside. */

/* What a vocabulary makes of an engine's grammar; NULL if there is no memory for it. */
PUBLIC Closing *sg_closing(Engine *e, const Vocabulary *v) {
    GUARD(e, NULL);
    Closing *c = allocate(e, sizeof *c);
    memset(c, 0, sizeof *c);
    c->e = e;
    c->v = v;
    find_plain(c);
    RESERVE(e, c->vertices, e->n_vertices + 1);
    c->vertices.n = e->n_vertices;
    memset(c->vertices.at, -1, 8 * (size_t)e->n_vertices);
    return c;
}

/* Tokens that are enough to complete the text from a state, up to NEVER_CLOSES. */
PUBLIC int64_t sg_tokens_to_close(Closing *c, int32_t state) {
    GUARD(c->e, -c->e->error);
    return tokens_to_close(c, state);
}

/* The state after a token, or DEAD; errors are below that. */
PUBLIC int64_t sg_take(Closing *c, int32_t state, const uint8_t *text, int32_t size) {
    GUARD(c->e, DEAD - c->e->error);
    for (int32_t i = 0; i < size && state != DEAD; i++) state = step(c->e->machine, state, text[i]);
    return state != DEAD && closes(c, state) ? state : DEAD;
}

PUBLIC int64_t sg_mask(Closing *c, int32_t state, int64_t remaining, uint32_t *out, int force) {
    GUARD(c->e, -c->e->error);
    return make_mask(c, state, remaining, out, force);
}

/* The masks of several states, one below the other; `stride` words apart. */
PUBLIC int64_t sg_masks(Closing *c, int32_t n, const int32_t *states, const int64_t *remaining,
                 uint32_t *out, int64_t stride) {
    GUARD(c->e, -c->e->error);
    for (int32_t i = 0; i < n; i++) make_mask(c, states[i], remaining[i], out + i * stride, 1);
    return 0;
}

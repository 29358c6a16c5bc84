/* A vocabulary as the masks see it: arrays made by grammars/vocabulary.py and trie.py, which must
 * outlive everything that uses them. */
#ifndef SGEN_GRAMMAR_VOCABULARY_H
#define SGEN_GRAMMAR_VOCABULARY_H

#include "grammar.h"

/* Nodes by depth, then by their bytes; node 0 is the root.  The children of node i are
 * at[i].first to at[i + 1].first; the tokens that end at it are tokens[at[i].ends] to
 * tokens[at[i + 1].ends]; its parent is parent[i]. */
typedef struct {
    const uint8_t *byte;
    const struct TrieNode { int32_t first, ends; } *at;
    const int32_t *tokens, *parent;
} Trie;

/* Tokens by the characters that they begin, and bits [n_rungs, n_words] of those with at most
 * rungs[i], which are the first ends[i].  The last rung has all. */
typedef struct {
    const int32_t *tokens, *chars, *rungs, *ends;
    const uint32_t *bits;
    int32_t n, n_rungs;
} TokenSet;

/* What tokens do inside a JSON string, between two characters, in one of its styles: stay inside,
 * or end it, and then they are in `after` by what they have after the quote; before[k] are the
 * characters that its token k has ahead of it.  longer[r]: the least number of characters above r
 * that any token has, inside or ahead of the quote; none has more than n_longer. */
typedef struct {
    TokenSet inside;
    Trie after;
    const int32_t *before, *longer;
    int32_t n_longer;
} TextTokens;

/* What tokens do where some characters, `bytes` and, if `wide`, those of the vocabulary's `wide`
 * too, are read again and again: stay inside, or leave them, at the nodes exits[exit_first[b]] to
 * exits[exit_first[b + 1]] by byte b, after exit_chars of them, or in the MIDDLE of one.
 * `longest`: the most characters of a token inside, or ahead of an exit.  Only tokens below the
 * node `base` are meant, from there on; `below_space`: the table of the same alphabet for the node
 * of a space.  steps [32, 256]: the substate inside a character after a byte, or -1.  `covers`: a
 * bit for each alphabet that lies within this one. */
enum { MIDDLE = 1 << 20, DEEP = 24 };

typedef struct LoopTokens {
    const uint8_t *bytes;
    const struct LoopTokens *below_space;
    const int8_t *steps;
    TokenSet inside;
    const int32_t *exits, *exit_chars, *exit_first;
    const int32_t *deep; /* the nodes after DEEP characters, which have others below them */
    int32_t n_deep, n_bytes, wide, base, longest;
    uint32_t covers;
} LoopTokens;

typedef struct {
    Trie all;
    TextTokens text[2];
    const LoopTokens *loops; /* by alphabet, those of the root */
    const int32_t *wide; /* [n_wide, 4]: substate, bytes from and to, the substate after them */
    const int32_t *ends; /* tokens that end a text */
    const uint8_t *byte_is_token; /* [256] */
    int32_t n_alphabets, n_wide, n_ends, n_words;
    int32_t longest; /* token, in bytes */
    int32_t space; /* the node of a space, below which there are tables of loops too; 0: none */
    int32_t writes_strings; /* single bytes are tokens that any JSON string can be ended with */
} Vocabulary;

/* States that an alphabet leads to from each other: the most tokens that close a text in any of
 * them, and the bytes that can follow there.  And of a state the number + 1 of its set, and the
 * alphabets for which it has none (see grammar_loops.c). */
typedef struct { int32_t alphabet, highest; uint8_t live[256]; } ClosedSet;
typedef struct { int32_t set, stamp; uint32_t failed; } Closed;

/* What it takes to complete texts with a vocabulary's tokens.  All of it lies in its own memory,
 * beside the engine's. */
typedef struct Closing {
    Engine *e;
    const Vocabulary *v;
    int8_t *plain;   /* by node: whether each state of a lexeme has a way to its end byte by byte */
    int32_t all_plain;
    int32_t unfinished; /* what failed has left marks in `vertices` */
    VECTOR(int8_t) closes; /* by state: whether a text can be completed; -1: not yet known */
    VECTOR(int64_t) vertices, conts; /* tokens, or -1 */
    VECTOR(int32_t) states;          /* tokens, or -1 */
    VECTOR(int8_t) given;            /* states whose masks were made */
    struct Known { int32_t node, local; int64_t tokens; } *known; /* of lexeme states */
    int32_t n_known, known_mask;
    VECTOR(Config) path;
    VECTOR(uint8_t) text;
    VECTOR(int64_t) fewest;
    VECTOR(int32_t) order, pending;
    VECTOR(int32_t) excluded;
    VECTOR(Closed) closed; /* by state */
    VECTOR(ClosedSet) sets;
    VECTOR(int32_t) members;
    VECTOR(uint32_t) bits;
    VECTOR(int32_t) same_conts; /* by continuation: the one that does not count, or -1 */
    VECTOR(int64_t) rooms;      /* by node: rounds that no token comes to the end of, or 0 */
    int32_t stamp;
} Closing;

#define NEVER_CLOSES INT32_MAX
#define LONGEST_TOKEN 96
#define LONGEST_LEXEME 65536

int32_t tokens_to_close(Closing *c, int32_t state);

static inline int32_t child_of(const Trie *t, int32_t node, int byte) {
    int32_t first = t->at[node].first, n = t->at[node + 1].first - first;
    if (n <= 0) return -1;
    const uint8_t *found = memchr(t->byte + first, byte, (size_t)n);
    return found ? (int32_t)(found - t->byte) : -1;
}

static inline int is_token(const Trie *t, int32_t node) {
    return t->at[node].ends < t->at[node + 1].ends;
}

static inline void allow(uint32_t *out, int32_t token) { out[token >> 5] |= 1u << (token & 31); }

/* A walk of a trie from some state on. */
typedef struct {
    Closing *c;
    const Trie *trie;
    uint32_t *out;
    int64_t remaining;     /* tokens are allowed if fewer than so many close the text after them */
    const int32_t *before; /* if not NULL: only tokens with from `least` to `most` there */
    int32_t least, most;
    int32_t highest; /* no allowed token leads to a state with more bytes to the end */
    int32_t plain;   /* byte by byte only */
} Walk;

/* grammar_mask.c */
int fits_after(Walk *w, int32_t state);
void allow_node(Walk *w, int32_t node, int32_t state);
void walk(Walk *w, int32_t node, int32_t state);
void allow_set(const Walk *w, const TokenSet *set, int32_t most);

/* grammar_same.c */
int32_t uncounted(Closing *c, Machine *m, int32_t state);

/* grammar_loops.c */
int walk_loop(Walk *w, int32_t node, int32_t state);

void find_plain(Closing *c);
int64_t cont_tokens(Closing *c, int32_t cont);
int closes_slowly(Closing *c, int32_t state);

/* Whether a text can be completed from a state.  Where all can be written byte by byte, few bytes
 * are few tokens, and nothing has to be counted. */
static inline int closes(Closing *c, int32_t state) {
    if (c->all_plain && c->e->machine->states.at[state].distance <= LONGEST_LEXEME) return 1;
    if (state < c->closes.n && c->closes.at[state] >= 0) return c->closes.at[state];
    return closes_slowly(c, state);
}

#endif

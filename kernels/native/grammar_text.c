/* JSON strings by their length alone: grammars/text.py, with the same numbers for states.
 *
 * A state is START, STOP, or FIRST + count * SUBSTATES + substate.
 */
#include "grammar.h"

enum { START = 0, STOP = 1, FIRST = 2, SUBSTATES = 20 };
enum { NONE = 255, NEXT = 254, CLOSE = 253 };
enum { BETWEEN, CLOSING, LAST, VARIANTS }; /* between characters: go on, or end, or only end */

static uint8_t after[2][SUBSTATES][256];
static uint8_t length[2][SUBSTATES]; /* bytes to the end of the character */
static ClassMap maps[2][SUBSTATES], between[2][VARIANTS];

static void edge(int style, int from, int low, int high, int to) {
    memset(&after[style][from][low], to, (size_t)(high - low + 1));
}

static void edges(int style, int from, const char *bytes, int to) {
    for (; *bytes; bytes++) after[style][from][(uint8_t)*bytes] = (uint8_t)to;
}

static void plain(int style) {
    edge(style, 0, 0x20, 0x7F, NEXT);
    edge(style, 0, 0x22, 0x22, CLOSE);
    edge(style, 0, 0x5C, 0x5C, 8);
    edge(style, 0, 0xC2, 0xDF, 1);
    edge(style, 0, 0xE0, 0xEF, 3);
    edge(style, 0, 0xE0, 0xE0, 2);
    edge(style, 0, 0xED, 0xED, 4);
    edge(style, 0, 0xF0, 0xF0, 5);
    edge(style, 0, 0xF1, 0xF3, 6);
    edge(style, 0, 0xF4, 0xF4, 7);
    edge(style, 1, 0x80, 0xBF, NEXT);
    edge(style, 2, 0xA0, 0xBF, 1);
    edge(style, 3, 0x80, 0xBF, 1);
    edge(style, 4, 0x80, 0x9F, 1);
    edge(style, 5, 0x90, 0xBF, 3);
    edge(style, 6, 0x80, 0xBF, 3);
    edge(style, 7, 0x80, 0x8F, 3);
}

static void every_escape(void) {
    const char *hex = "0123456789abcdefABCDEF";
    edges(0, 8, "\"\\/bfnrt", NEXT);
    edges(0, 8, "u", 9);
    edges(0, 9, "0123456789abcefABCEF", 10);
    edges(0, 9, "dD", 13);
    edges(0, 10, hex, 11);
    edges(0, 11, hex, 12);
    edges(0, 12, hex, NEXT);
    edges(0, 13, "01234567", 11);
    edges(0, 13, "89abAB", 14);
    edges(0, 14, hex, 15);
    edges(0, 15, hex, 16);
    edges(0, 16, "\\", 17);
    edges(0, 17, "u", 18);
    edges(0, 18, "dD", 19);
    edges(0, 19, "cdefCDEF", 11);
}

static void one_escape(void) {
    edges(1, 8, "\"\\bfnrt", NEXT);
    edges(1, 8, "u", 9);
    edges(1, 9, "0", 10);
    edges(1, 10, "0", 11);
    edges(1, 11, "0", 12);
    edges(1, 11, "1", 13);
    edges(1, 12, "01234567bef", NEXT);
    edges(1, 13, "0123456789abcdef", NEXT);
}

static void make_map(ClassMap *map, const uint8_t targets[256], int without) {
    uint8_t number[256] = {0};
    int classes = 1;
    for (int byte = 0; byte < 256; byte++) {
        int target = targets[byte];
        if (target == NONE || target == without || (without == NEXT && target != CLOSE)) continue;
        if (!number[target]) number[target] = (uint8_t)classes++;
        map->of[byte] = number[target];
    }
    describe_map(map);
}

__attribute__((constructor)) static void make_tables(void) {
    memset(after, NONE, sizeof after);
    plain(0);
    plain(1);
    every_escape();
    one_escape();
    for (int style = 0; style < 2; style++) {
        for (int round = 0; round < SUBSTATES; round++)
            for (int sub = 1; sub < SUBSTATES; sub++) {
                int least = 100;
                for (int byte = 0; byte < 256; byte++) {
                    int to = after[style][sub][byte];
                    int left = to == NONE ? 100 : to == NEXT ? 1 : 1 + length[style][to];
                    if (left < least) least = left;
                }
                length[style][sub] = (uint8_t)least;
            }
        for (int sub = 1; sub < SUBSTATES; sub++)
            make_map(&maps[style][sub], after[style][sub], NONE);
        make_map(&between[style][BETWEEN], after[style][0], CLOSE);
        make_map(&between[style][CLOSING], after[style][0], NONE);
        make_map(&between[style][LAST], after[style][0], NEXT);
    }
}

int32_t text_low(const Node *node) { return node->code[2]; }
int32_t text_high(const Node *node) { return node->code[3] < 0 ? FAR : node->code[3]; }

const ClassMap *text_map(const Node *node, int32_t local) {
    if (local == START) return single_byte_map('"');
    if (local == STOP) return &no_byte_map;
    int32_t count = (local - FIRST) / SUBSTATES, sub = (local - FIRST) % SUBSTATES;
    int style = node->code[1];
    if (sub) return &maps[style][sub];
    if (count < text_low(node)) return &between[style][BETWEEN];
    return &between[style][count == text_high(node) ? LAST : CLOSING];
}

int32_t text_step(Engine *e, const Node *node, int32_t local, int byte) {
    if (local == START) return byte == '"' ? FIRST : DEAD;
    if (local == STOP) return DEAD;
    int32_t count = (local - FIRST) / SUBSTATES, sub = (local - FIRST) % SUBSTATES;
    int32_t low = text_low(node), high = text_high(node);
    int to = after[node->code[1]][sub][byte];
    if (to == NONE) return DEAD;
    if (to == CLOSE) return count >= low ? STOP : DEAD;
    if (sub == 0 && count >= high) return DEAD;
    if (to != NEXT) return FIRST + count * SUBSTATES + to;
    if (high != FAR || count < low) count++;
    if (count > (INT32_MAX - FIRST) / SUBSTATES - 1) fail(e, TOO_MANY_STATES);
    return FIRST + count * SUBSTATES;
}

int32_t text_distance(const Node *node, int32_t local) {
    int32_t low = text_low(node);
    if (local == START) return low + 2;
    if (local == STOP) return 0;
    int32_t count = (local - FIRST) / SUBSTATES, sub = (local - FIRST) % SUBSTATES;
    int32_t missing = low - count - (sub > 0);
    return length[node->code[1]][sub] + (missing > 0 ? missing : 0) + 1;
}

/* Characters read, if the state is inside the string and between two characters; else -1. */
int32_t text_between(int32_t local) {
    return local >= FIRST && (local - FIRST) % SUBSTATES == 0 ? (local - FIRST) / SUBSTATES : -1;
}

int32_t text_at(int32_t count) { return FIRST + count * SUBSTATES; }

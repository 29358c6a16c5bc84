/* Memory of an engine within its budget, and class maps, each of which exists once. */
#include "grammar.h"

void fail(Engine *e, int error) {
    e->error = error;
    longjmp(e->jump, 1);
}

/* A block of `size` bytes that the engine owns, with the contents of `old`, unless that is NULL. */
void *resize(Engine *e, void *old, int64_t size) {
    Block *block = old ? (Block *)old - 1 : NULL;
    int64_t before = block ? block->size : 0;
    if (e->bytes - before + size > e->max_bytes) fail(e, TOO_LARGE);
    Block *moved = realloc(block, sizeof(Block) + (size_t)size);
    if (!moved) fail(e, NO_MEMORY);
    if (!block) {
        moved->before = NULL;
        moved->after = e->blocks;
    }
    if (moved->before) moved->before->after = moved;
    else e->blocks = moved;
    if (moved->after) moved->after->before = moved;
    moved->size = size;
    e->bytes += size - before;
    return moved + 1;
}

void release(Engine *e, void *old) {
    if (!old) return;
    Block *block = (Block *)old - 1;
    if (block->before) block->before->after = block->after;
    else e->blocks = block->after;
    if (block->after) block->after->before = block->before;
    e->bytes -= block->size;
    free(block);
}

/* Bytes that are kept for as long as the engine. */
void *allocate(Engine *e, int64_t size) {
    size = (size + 7) & ~(int64_t)7;
    if (e->free_end - e->free < size) {
        if (e->chunk < 65536) e->chunk *= 2;
        int64_t chunk = size > e->chunk ? size : e->chunk;
        char *found = resize(e, NULL, chunk);
        e->free = found;
        e->free_end = found + chunk;
    }
    void *found = e->free;
    e->free += size;
    return found;
}

const ClassMap no_byte_map = {{0}, 0, 1, 0, {0}};
Row end_row = {&no_byte_map, {DEAD}};

static ClassMap single[256];

__attribute__((constructor)) static void make_single_byte_maps(void) {
    for (int byte = 0; byte < 256; byte++) {
        single[byte].of[byte] = 1;
        describe_map(&single[byte]);
    }
}

const ClassMap *single_byte_map(int byte) { return &single[byte]; }

/* Fill in what follows from the classes. */
void describe_map(ClassMap *map) {
    int32_t live = 0, classes = 0;
    for (int byte = 0; byte < 256; byte++) {
        int class = map->of[byte];
        if (class > classes) classes = class;
        if (class) {
            if (live < FEW) map->live[live] = (uint8_t)byte;
            live++;
        }
    }
    map->n_live = live;
    map->n_classes = classes + 1;
}

static uint64_t hash_map(const uint8_t of[256]) {
    uint64_t hash[4] = {1, 2, 3, 4}, word;
    for (int i = 0; i < 256; i += 32)
        for (int lane = 0; lane < 4; lane++) {
            memcpy(&word, of + i + 8 * lane, 8);
            hash[lane] = (hash[lane] ^ word) * 0x9E3779B97F4A7C15ull;
            hash[lane] ^= hash[lane] >> 29;
        }
    return mix(mix(hash[0], hash[1]), mix(hash[2], hash[3]));
}

static void grow_maps(Engine *e) {
    int32_t size = e->maps ? 2 * (e->map_mask + 1) : 32;
    const ClassMap **slots = resize(e, NULL, (int64_t)size * (int64_t)sizeof *slots);
    memset(slots, 0, (size_t)size * sizeof *slots);
    for (int32_t i = 0; e->maps && i <= e->map_mask; i++) {
        if (!e->maps[i]) continue;
        uint64_t at = e->maps[i]->hash & (uint64_t)(size - 1);
        while (slots[at]) at = (at + 1) & (uint64_t)(size - 1);
        slots[at] = e->maps[i];
    }
    release(e, e->maps);
    e->maps = slots;
    e->map_mask = size - 1;
}

const ClassMap *intern_map(Engine *e, const uint8_t of[256]) {
    if (!e->maps || 2 * e->n_maps > e->map_mask) grow_maps(e);
    uint64_t hash = hash_map(of), at = hash & (uint64_t)e->map_mask;
    for (; e->maps[at]; at = (at + 1) & (uint64_t)e->map_mask)
        if (e->maps[at]->hash == hash && !memcmp(e->maps[at]->of, of, 256)) return e->maps[at];
    ClassMap *map = allocate(e, sizeof *map);
    memcpy(map->of, of, 256);
    describe_map(map);
    map->hash = hash;
    e->maps[at] = map;
    e->n_maps++;
    return map;
}

Row *new_row(Engine *e, const ClassMap *map) {
    Row *row = allocate(e, (int64_t)sizeof *row + 4 * (int64_t)map->n_classes);
    row->map = map;
    row->target[0] = DEAD;
    for (int32_t class = 1; class < map->n_classes; class++) row->target[class] = UNKNOWN;
    return row;
}

/* Make the classes in `cur` finer by those of `map`; their new number (class 0 counts). */
int32_t refine(Engine *e, uint8_t cur[256], int32_t classes, const ClassMap *map) {
    if (classes == 1) {
        memcpy(cur, map->of, 256);
        return map->n_classes;
    }
    uint8_t number[256 * 256];
    memset(number, 0, (size_t)classes * (size_t)map->n_classes);
    int32_t next = 1;
    for (int byte = 0; byte < 256; byte++) {
        int32_t key = cur[byte] * map->n_classes + map->of[byte];
        if (!key) continue;
        if (!number[key]) {
            if (next > 255) fail(e, TOO_AMBIGUOUS);
            number[key] = (uint8_t)next++;
        }
        cur[byte] = number[key];
    }
    return next;
}

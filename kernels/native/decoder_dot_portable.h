/* The specification of the other decoder_dot_*.h: integer products of 16 outputs.
 *
 * A block is 8 quads, each 4 columns of 16 outputs.  It is read either packed, as a matrix has it,
 * or spread: 64 bytes a quad, in whatever form suits `dot`.  `dot` and `spread` may have subtracted
 * weight_bias(bits) from the weights; the caller knows. */

#define DOT_ROWS 4 /* rows that are multiplied by a spread block at once: SPARE_ROWS + 1 at most */
/* INLINE where each format and number of rows is worth code of its own; this is quicker to compile. */
#define SPECIALIZED static __attribute__((noinline, noclone))

typedef struct { int32_t lane[TILE]; } vi; /* an integer for each output */

INLINE vi vi_set(int32_t x) { vi r; EACH_LANE r.lane[i] = x; return r; }
INLINE vi vi_add(vi a, vi b) { EACH_LANE a.lane[i] += b.lane[i]; return a; }
INLINE vf vi_float(vi a) { vf r; EACH_LANE r.lane[i] = (float)a.lane[i]; return r; }

INLINE int weight_bias(int bits) { (void)bits; return 0; }

/* The integer of byte `at` (0 to 63) of quad j of a packed block. */
INLINE int packed_weight(const uint8_t *block, int bits, int j, int at) {
    if (bits == 8) return block[64 * j + at];
    int low = block[64 * (j / 2) + at] >> 4 * (j % 2) & 15;
    if (bits == 5) return low | (block[256 + at] >> j & 1) << 4;
    if (bits == 6) return low | (block[256 + 64 * (j / 4) + at] >> 2 * (j % 4) & 3) << 4;
    return low;
}

INLINE void spread(const uint8_t *block, int bits, uint8_t *bytes) {
    for (int j = 0; j < 8; j++)
        for (int at = 0; at < 64; at++) bytes[64 * j + at] = packed_weight(block, bits, j, at);
}

/* out[r] = the sums of quads `first` to first + count - 1 times those columns of row r of q, whose
 * rows are `stride` apart; q points to the block's columns. */
SPECIALIZED void dot(vi *out, const uint8_t *block, const int8_t *q, int64_t stride, int bits,
                     int first, int count, int rows, int packed) {
    for (int r = 0; r < rows; r++) {
        vi sum = vi_set(0);
        for (int j = first; j < first + count; j++)
            for (int at = 0; at < 64; at++) {
                int w = packed ? packed_weight(block, bits, j, at) : block[64 * j + at];
                sum.lane[at / 4] += w * q[r * stride + 4 * j + at % 4];
            }
        out[r] = sum;
    }
}

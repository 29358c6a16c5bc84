/* Keys and values as they lie in pages: decoder.h says how. */
#include "decoder_attention.h"

EXPORT int64_t kv_block_bytes(const KV *kv) {
    const int64_t scales = kv->kind == KV_INT8 ? 2 * PAGE * (int64_t)sizeof(float) : 0;
    return 2 * PAGE * kv->dim * element_bytes(kv->kind) + scales;
}

/* x as integers of the scale that is returned: the largest |x| / 127. */
static float to_int8(const float *x, int dim, int8_t *q) {
    vf top = vf_set(0.0f);
    for (int i = 0; i < dim; i += LANES) top = vf_max(top, vf_abs(vf_load(x + i)));
    const float scale = vf_top(top) / 127.0f;
    const vf divisor = vf_set(scale > 0.0f ? scale : 1.0f), most = vf_set(127.0f);
    for (int i = 0; i < dim; i += LANES) {
        vf y = vf_round(vf_div(vf_load(x + i), divisor));
        vf_store_i8(q + i, vf_min(vf_max(y, vf_set(-127.0f)), most)); /* tiny scales are inexact */
    }
    return scale;
}

static void write_int8(uint8_t *block, int dim, int64_t offset, const float *k, const float *v) {
    int8_t q[SUPER];
    float *scales = (float *)(block + 2 * PAGE * dim);
    scales[offset] = to_int8(k, dim, q);
    for (int i = 0; i < dim; i++) block[i * PAGE + offset] = (uint8_t)q[i];
    scales[PAGE + offset] = to_int8(v, dim, (int8_t *)block + (PAGE + offset) * dim);
}

EXPORT void kv_write(const KV *kv, int layer, int64_t slot, const float *k, const float *v) {
    const int dim = kv->dim;
    const int64_t offset = slot % PAGE, bytes = kv_block_bytes(kv);
    for (int h = 0; h < kv->heads; h++, k += dim, v += dim) {
        uint8_t *block = block_of(kv, bytes, layer, slot / PAGE, h);
        if (kv->kind == KV_INT8) {
            write_int8(block, dim, offset, k, v);
        } else if (kv->kind == KV_BFLOAT) {
            uint16_t *keys = (uint16_t *)block, *values = keys + PAGE * dim + offset * dim;
            for (int i = 0; i < dim; i++) keys[i * PAGE + offset] = float_to_bfloat(k[i]);
            for (int i = 0; i < dim; i += LANES) vf_store_bfloat(values + i, vf_load(v + i));
        } else {
            float *keys = (float *)block, *values = keys + PAGE * dim + offset * dim;
            for (int i = 0; i < dim; i++) keys[i * PAGE + offset] = k[i];
            memcpy(values, v, (size_t)dim * sizeof(float));
        }
    }
}

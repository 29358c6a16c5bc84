/* What is done to one row at a time; each result is a function of that row alone. */
#include "decoder.h"

EXPORT void quantize_row(const Rows *rows, int64_t r) {
    const int64_t columns = rows->columns;
    const float *x = rows->x + r * columns;
    int8_t *q = rows->q + r * columns;
    float *scale = rows->scale + r * (columns / GROUP);
    int32_t *sum16 = rows->sum16 + r * (columns / LANES), *sum32 = rows->sum32 + r * (columns / GROUP);
    float *scaled16 = rows->scaled16 + r * (columns / LANES);
    float *scaled32 = rows->scaled32 + r * (columns / GROUP);
    for (int64_t g = 0; g < columns / GROUP; g++) {
        vf a = vf_load(x + g * GROUP), b = vf_load(x + g * GROUP + LANES);
        float top = vf_top(vf_max(vf_abs(a), vf_abs(b)));
        vf inverse = vf_set(top > 1e-30f ? 127.0f / top : 0.0f); /* tiny ones are 0: no infinity */
        a = vf_round(vf_mul(a, inverse));
        b = vf_round(vf_mul(b, inverse));
        vf_store_i8(q + g * GROUP, a);
        vf_store_i8(q + g * GROUP + LANES, b);
        float first = vf_sum(a), second = vf_sum(b); /* whole numbers: exact */
        const int finite = first + second - (first + second) == 0.0f;
        /* What is not a number must stay so: the engine looks for it in the logits. */
        const float factor = finite ? top / 127.0f : NAN;
        scale[g] = factor;
        sum16[2 * g] = finite ? (int32_t)first : 0;
        sum16[2 * g + 1] = finite ? (int32_t)second : 0;
        sum32[g] = sum16[2 * g] + sum16[2 * g + 1];
        scaled16[2 * g] = factor * first;
        scaled16[2 * g + 1] = factor * second;
        scaled32[g] = factor * (first + second);
    }
}

EXPORT void rms_norm(const float *x, const float *weight, float eps, int64_t n, float *out) {
    vf squares = vf_set(0.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf v = vf_load(x + i);
        squares = vf_fma(v, v, squares);
    }
    const int rest = (int)(n - i);
    if (rest) {
        vf v = vf_load_first(x + i, rest, 0.0f);
        squares = vf_fma(v, v, squares);
    }
    vf factor = vf_set(1.0f / sqrtf(vf_sum(squares) / (float)n + eps));
    for (i = 0; i + LANES <= n; i += LANES)
        vf_store(out + i, vf_mul(vf_load(weight + i), vf_mul(vf_load(x + i), factor)));
    if (rest) {
        vf v = vf_mul(vf_load_first(x + i, rest, 0.0f), factor);
        vf_store_first(out + i, rest, vf_mul(vf_load_first(weight + i, rest, 0.0f), v));
    }
}

INLINE vf silu_mul_16(vf gate, vf up) {
    /* e^88 is finite, and more than enough to make the quotient vanish. */
    vf negative = vf_min(vf_sub(vf_set(0.0f), gate), vf_set(88.0f));
    return vf_mul(vf_div(gate, vf_add(vf_set(1.0f), vf_exp(negative))), up);
}

EXPORT void silu_mul(const float *gate, const float *up, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vf_store(out + i, silu_mul_16(vf_load(gate + i), vf_load(up + i)));
    const int rest = (int)(n - i);
    if (rest) {
        vf v = silu_mul_16(vf_load_first(gate + i, rest, 0.0f), vf_load_first(up + i, rest, 0.0f));
        vf_store_first(out + i, rest, v);
    }
}

EXPORT void rope(float *head, const float *cosine, const float *sine, int half) {
    int i = 0;
    for (; i + LANES <= half; i += LANES) {
        vf a = vf_load(head + i), b = vf_load(head + half + i);
        vf c = vf_load(cosine + i), s = vf_load(sine + i);
        vf_store(head + i, vf_nmadd(b, s, vf_mul(a, c)));
        vf_store(head + half + i, vf_fma(a, s, vf_mul(b, c)));
    }
    for (; i < half; i++) {
        float a = head[i], b = head[half + i];
        head[i] = fmaf(-b, sine[i], a * cosine[i]);
        head[half + i] = fmaf(a, sine[i], b * cosine[i]);
    }
}

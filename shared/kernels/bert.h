/* BERT, whose activations have about 16 bits. */

#pragma once

#include "product.h"

typedef struct {
    Linear ask, join, widen, narrow; /* the first makes queries, keys and values */
    Norm joined, narrowed;
} Layer;

typedef struct {
    const float *words, *places, *kinds; /* (vocabulary, width), (positions, width), (varieties, width) */
    int64_t vocabulary, positions, varieties;
    Norm first;
    const Layer *layers;
    int64_t count, heads, width; /* the width a multiple of 16 times the heads */
} Bert;

/* The exact form, as BERT has it: x (1 + erf(x / sqrt 2)) / 2, with erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
INLINE __m512 exact_gelu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), u = _mm512_mul_ps(x, _mm512_set1_ps(0.70710678f)), a = _mm512_abs_ps(u);
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(a, _mm512_set1_ps(0.3275911f), one));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_mul_ps(_mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f)), t);
    const __m512 left = _mm512_mul_ps(p, exponential(_mm512_fnmadd_ps(a, a, _mm512_setzero_ps()))); /* 1 - |erf| */
    const __m512 half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 below = _mm512_mul_ps(half, left);
    return _mm512_mask_mov_ps(_mm512_sub_ps(x, below), negative, below);
}

/* A row in about 16 bits: its own 8 in row `row`, and 8 of what these leave of it, which goes to `left`, in row `row`
   of the `rows` behind them. */
static void quantize_finely(const float *x, int64_t width, int64_t row, int64_t rows, Rows out, float *left) {
    quantize(x, width, row, out);
    const __m512 scale = _mm512_set1_ps(out.scales[row]);
    for (int64_t i = 0; i < width; i += 16) {
        const __m512i whole = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(out.x + row * width + i)));
        _mm512_storeu_ps(left + i, _mm512_fnmadd_ps(_mm512_cvtepi32_ps(whole), scale, _mm512_loadu_ps(x + i)));
    }
    quantize(left, width, rows + row, out);
}

/* As `product`, of rows from `quantize_finely`. `parts` has room for both products, of which each has the bias. */
INLINE void fine_product(const Linear *l, Rows in, int64_t rows, float *parts, float *y, enum Then then) {
    product(l, in, 2 * rows, parts, NOTHING);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < l->outputs; i += 16) { /* a multiple of 16 in BERT */
            const __m512 rest = _mm512_sub_ps(_mm512_loadu_ps(parts + (rows + r) * l->outputs + i),
                                              _mm512_loadu_ps(l->bias + i));
            __m512 made = _mm512_add_ps(_mm512_loadu_ps(parts + r * l->outputs + i), rest);
            float *to = y + r * l->outputs + i;
            if (then == GELU) made = exact_gelu(made);
            if (then == ADD) made = _mm512_add_ps(made, _mm512_loadu_ps(to));
            _mm512_storeu_ps(to, made);
        }
}

/* Attention of `count` queries (a constant) of one head to all `tokens` of their text. Keys are (dim, padded): 16 scores
   at once, and no sum across; `values` lie `apart`. `scores` has room for `count` times `padded`. */
INLINE void attend_text(const int count, const float *query, int64_t apart, const float *keys, int64_t padded,
                        const float *values, int64_t tokens, int64_t dim, float *scores, float *seen, int64_t width) {
    const __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)dim)), none = _mm512_set1_ps(-INFINITY);
    for (int64_t j = 0; j < padded; j += 16) {
        __m512 s[QUERIES];
#pragma GCC unroll 4
        for (int r = 0; r < count; r++) s[r] = _mm512_setzero_ps();
        for (int64_t i = 0; i < dim; i++) {
            const __m512 key = _mm512_loadu_ps(keys + i * padded + j);
#pragma GCC unroll 4
            for (int r = 0; r < count; r++) s[r] = _mm512_fmadd_ps(_mm512_set1_ps(query[r * apart + i]), key, s[r]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < count; r++)
            _mm512_storeu_ps(scores + r * padded + j, _mm512_mask_mul_ps(none, first(tokens - j), s[r], scale));
    }
    __m512 by[QUERIES];
    for (int r = 0; r < count; r++) {
        float *row = scores + r * padded;
        __m512 most = none, total = _mm512_setzero_ps();
        for (int64_t j = 0; j < padded; j += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(row + j));
        const __m512 peak = _mm512_set1_ps(_mm512_reduce_max_ps(most));
        for (int64_t j = 0; j < padded; j += 16) {
            const __m512 e = exponential(_mm512_sub_ps(_mm512_loadu_ps(row + j), peak));
            total = _mm512_add_ps(total, e);
            _mm512_storeu_ps(row + j, e);
        }
        by[r] = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
    }
    for (int64_t i = 0; i < dim; i += 16) {
        __m512 made[QUERIES];
#pragma GCC unroll 4
        for (int r = 0; r < count; r++) made[r] = _mm512_setzero_ps();
        for (int64_t j = 0; j < tokens; j++) {
            const __m512 value = _mm512_loadu_ps(values + j * apart + i);
#pragma GCC unroll 4
            for (int r = 0; r < count; r++)
                made[r] = _mm512_fmadd_ps(_mm512_set1_ps(scores[r * padded + j]), value, made[r]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < count; r++) _mm512_storeu_ps(seen + r * width + i, _mm512_mul_ps(made[r], by[r]));
    }
}

/* One head of one text: `asked` are its queries; keys and values lie `width` and 2 `width` behind them. `room` is for
   dim + QUERIES times the tokens, rounded up to 16. */
static void attend_texts_head(const float *asked, int64_t tokens, int64_t width, int64_t dim, float *room,
                              float *seen) {
    const int64_t padded = (tokens + 15) / 16 * 16, apart = 3 * width;
    float *keys = room, *scores = room + dim * padded;
    for (int64_t j = 0; j < padded; j++)
        for (int64_t i = 0; i < dim; i++) keys[i * padded + j] = j < tokens ? asked[j * apart + width + i] : 0;
    const float *values = asked + 2 * width;
    int64_t r = 0;
    for (; r + QUERIES <= tokens; r += QUERIES)
        attend_text(QUERIES, asked + r * apart, apart, keys, padded, values, tokens, dim, scores, seen + r * width,
                    width);
    for (; r < tokens; r++)
        attend_text(1, asked + r * apart, apart, keys, padded, values, tokens, dim, scores, seen + r * width, width);
}

/* BERT without its pooler, over texts that lie end to end: from ids and kinds (rows; no kinds: all 0) to the last states
   (rows, width). Text t has the rows from `ends[t - 1]` up to `ends[t]`; `longest` is the most of one. */
int parley_bert(const Bert *model, const int64_t *ids, const int64_t *kinds, const int64_t *ends, int64_t texts,
                int64_t longest, float *state, int64_t threads) {
    const int64_t rows = ends[texts - 1], width = model->width, dim = width / model->heads;
    const int64_t wide = model->layers[0].widen.outputs, head_room = (dim + QUERIES) * ((longest + 15) / 16 * 16);
    if (!within(ids, rows, model->vocabulary) || longest > model->positions) return OUT_OF_RANGE;
    if (kinds && !within(kinds, rows, model->varieties)) return OUT_OF_RANGE;
    const int64_t widest = wide > 3 * width ? wide : 3 * width; /* of the products */
    const int64_t floats = rows * (width + widest + 2 * widest) + threads * head_room;
    char *room = aligned_alloc(64, (4 * floats + 2 * rows * (wide + 8) + 1024) / 64 * 64), *free_room = room;
    if (!room) return NO_MEMORY;
    const Rows q = take_rows(&free_room, 2 * rows, wide);
    float *seen = take(&free_room, 4 * rows * width), *asked = take(&free_room, 4 * rows * widest), *bent = asked;
    float *parts = take(&free_room, 8 * rows * widest), *left = parts; /* never needed at the same time */
    float *head_rooms = take(&free_room, 4 * threads * head_room);
#pragma omp parallel num_threads(threads)
    {
        float *own_room = head_rooms + omp_get_thread_num() * head_room;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < texts; t++)
            for (int64_t begin = t ? ends[t - 1] : 0, r = begin; r < ends[t]; r++) {
                const float *word = model->words + ids[r] * width, *place = model->places + (r - begin) * width;
                const float *kind = model->kinds + (kinds ? kinds[r] : 0) * width;
                for (int64_t i = 0; i < width; i++) state[r * width + i] = word[i] + kind[i] + place[i];
                normalize(state + r * width, width, model->first, state + r * width);
                quantize_finely(state + r * width, width, r, rows, q, left + r * width);
            }
        for (const Layer *layer = model->layers; layer < model->layers + model->count; layer++) {
            fine_product(&layer->ask, q, rows, parts, asked, NOTHING);
#pragma omp for schedule(static)
            for (int64_t job = 0; job < texts * model->heads; job++) {
                const int64_t t = job / model->heads, begin = t ? ends[t - 1] : 0, at = job % model->heads * dim;
                attend_texts_head(asked + begin * 3 * width + at, ends[t] - begin, width, dim, own_room,
                                  seen + begin * width + at);
            }
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++)
                quantize_finely(seen + r * width, width, r, rows, q, left + r * width);
            fine_product(&layer->join, q, rows, parts, state, ADD);
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) {
                normalize(state + r * width, width, layer->joined, state + r * width);
                quantize_finely(state + r * width, width, r, rows, q, left + r * width);
            }
            fine_product(&layer->widen, q, rows, parts, bent, GELU);
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) quantize_finely(bent + r * wide, wide, r, rows, q, left + r * wide);
            fine_product(&layer->narrow, q, rows, parts, state, ADD);
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) {
                normalize(state + r * width, width, layer->narrowed, state + r * width);
                quantize_finely(state + r * width, width, r, rows, q, left + r * width);
            }
        }
    }
    free(room);
    return 0;
}

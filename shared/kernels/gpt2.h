/* GPT-2, whose keys and values are kept in 8 bits. */

#pragma once

#include "product.h"

enum { DIM = 64 };      /* of a head */
enum { KEPT = DIM + 4 }; /* bytes of a key or a value: its numbers in 8 bits, and what they are to be multiplied with */

typedef struct {
    Norm before, between;
    Linear ask, answer, widen, narrow;
    float scale; /* of attention scores */
} Block;

typedef struct {
    int8_t *held;        /* keys and values (layers, 2, heads, capacity, KEPT) */
    const float *mask;   /* (rows, length + rows), added to the scores; none: every row sees everything */
    int64_t mask_stride; /* from row to row */
    int64_t capacity;
    int64_t length; /* how many positions hold what they should */
    int64_t rows;   /* new ones after them */
} Piece;

typedef struct {
    const int8_t *words;      /* (vocabulary, width) */
    const float *word_scales; /* (vocabulary) */
    const float *places;      /* (positions, width) */
    int64_t vocabulary, positions;
    const Block *blocks;
    int64_t layers, heads;
    Norm last;
} Gpt2;

/* The state that GPT-2 begins with: a word's embedding and its place's. */
static void embed(const Gpt2 *model, int64_t id, int64_t position, int64_t width, float *state) {
    const int8_t *word = model->words + id * width;
    const float *place = model->places + position * width;
    for (int64_t i = 0; i < width; i += 16) {
        const __m512 some = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(word + i))));
        const __m512 scaled = _mm512_mul_ps(some, _mm512_set1_ps(model->word_scales[id]));
        _mm512_storeu_ps(state + i, _mm512_add_ps(scaled, _mm512_loadu_ps(place + i)));
    }
}

INLINE __m128 quarter(__m512 x) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x),
                                      _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

INLINE __m512 load_kept(const int8_t *at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

INLINE float scale_kept(const int8_t *at) {
    float scale;
    memcpy(&scale, at + DIM, 4);
    return scale;
}

static void keep(const float *x, int8_t *at) {
    int32_t offset; /* of no use here */
    float scale;
    const Rows one = {at, &scale, &offset};
    quantize(x, DIM, 0, one);
    memcpy(at + DIM, &scale, 4);
}

/* Attention of `count` queries (a constant) to `seen` positions of one head. Queries and results lie
   `ask_stride` and `width` apart; `scores` has room for `count` rows of seen + 16. The keys and
   values that lie `next` further on are fetched meanwhile: the next head's. */
INLINE void attend(const int count, const float *query, int64_t ask_stride, const int8_t *keys,
                   const int8_t *values, int64_t next, int64_t seen, const float *mask, int64_t mask_stride,
                   float scale, float *scores, float *y, int64_t width) {
    const int64_t stride = (seen + 15) / 16 * 16;
    __m512 q[QUERIES][4], made[QUERIES][4], total[QUERIES];
    for (int r = 0; r < count; r++) {
        total[r] = _mm512_setzero_ps();
        for (int i = 0; i < 4; i++) {
            q[r][i] = _mm512_mul_ps(_mm512_loadu_ps(query + r * ask_stride + 16 * i), _mm512_set1_ps(scale));
            made[r][i] = _mm512_setzero_ps();
        }
    }
    for (int64_t j = 0; j < seen; j += 4) {
        __m128 parts[QUERIES][4];
        float scales[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const int64_t at = (j + k < seen ? j + k : seen - 1) * KEPT;
            __m512 key[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) key[i] = load_kept(keys + at + 16 * i);
            scales[k] = scale_kept(keys + at);
            _mm_prefetch((const char *)(keys + next + at), _MM_HINT_T1);
#pragma GCC unroll 4
            for (int r = 0; r < count; r++) {
                __m512 s = _mm512_mul_ps(q[r][0], key[0]);
#pragma GCC unroll 3
                for (int i = 1; i < 4; i++) s = _mm512_fmadd_ps(q[r][i], key[i], s);
                parts[r][k] = quarter(s);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < count; r++) {
            _MM_TRANSPOSE4_PS(parts[r][0], parts[r][1], parts[r][2], parts[r][3]);
            const __m128 some = _mm_add_ps(parts[r][0], parts[r][1]), others = _mm_add_ps(parts[r][2], parts[r][3]);
            _mm_storeu_ps(scores + r * stride + j, _mm_mul_ps(_mm_add_ps(some, others), _mm_loadu_ps(scales)));
        }
    }
    for (int r = 0; r < count; r++) {
        float *row = scores + r * stride;
        const __m512 none = _mm512_set1_ps(-INFINITY);
        __m512 most = none;
        for (int64_t j = 0; j < seen; j += 16) {
            const __mmask16 some = first(seen - j);
            __m512 s = _mm512_mask_loadu_ps(none, some, row + j);
            if (mask)
                s = _mm512_mask_add_ps(s, some, s, _mm512_maskz_loadu_ps(some, mask + r * mask_stride + j));
            _mm512_storeu_ps(row + j, s);
            most = _mm512_max_ps(most, s);
        }
        const __m512 peak = _mm512_set1_ps(_mm512_reduce_max_ps(most));
        for (int64_t j = 0; j < seen; j += 16)
            _mm512_storeu_ps(row + j, exponential(_mm512_sub_ps(_mm512_loadu_ps(row + j), peak)));
    }
    /* Position by position, so that those that are not seen change nothing, wherever they lie. */
    for (int64_t j = 0; j < seen; j++) {
        const __m512 unit = _mm512_set1_ps(scale_kept(values + j * KEPT));
        __m512 value[4];
        _mm_prefetch((const char *)(values + next + j * KEPT), _MM_HINT_T1);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) value[i] = _mm512_mul_ps(unit, load_kept(values + j * KEPT + 16 * i));
#pragma GCC unroll 4
        for (int r = 0; r < count; r++) {
            const __m512 p = _mm512_set1_ps(scores[r * stride + j]);
            total[r] = _mm512_add_ps(total[r], p);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) made[r][i] = _mm512_fmadd_ps(p, value[i], made[r][i]);
        }
    }
    for (int r = 0; r < count; r++)
        for (int i = 0; i < 4; i++)
            _mm512_storeu_ps(y + r * width + 16 * i, _mm512_div_ps(made[r][i], total[r]));
}

/* The end of what a row of a mask lets see, at least `least`, at most `most`. */
INLINE int64_t last_seen(const float *mask, int64_t least, int64_t most) {
    while (most > least && mask[most - 1] == -INFINITY) most--;
    return most;
}

/* One head of one piece: keep its new keys and values, then ask. `asked`, `seen`: the piece's first rows. */
static void attend_head(const Piece *p, int64_t layer, int64_t heads, int64_t head, float scale,
                        const float *asked, float *scores, float *seen) {
    const int64_t width = heads * DIM;
    int8_t *keys = p->held + (2 * layer * heads + head) * p->capacity * KEPT;
    int8_t *values = keys + heads * p->capacity * KEPT;
    const int64_t next = p->capacity * KEPT;
    asked += head * DIM;
    seen += head * DIM;
    for (int64_t r = 0; r < p->rows; r++) {
        keep(asked + (3 * r + 1) * width, keys + (p->length + r) * KEPT);
        keep(asked + (3 * r + 2) * width, values + (p->length + r) * KEPT);
    }
    for (int64_t r = 0; r < p->rows;) {
        const int64_t count = p->rows - r >= QUERIES ? QUERIES : 1;
        const float *mask = p->mask ? p->mask + r * p->mask_stride : 0;
        /* What none of these rows sees at the end is left out: in a prompt, later tokens. */
        int64_t last = mask ? 1 : p->length + p->rows;
        for (int64_t k = 0; mask && k < count; k++)
            last = last_seen(mask + k * p->mask_stride, last, p->length + p->rows);
        const float *query = asked + r * 3 * width;
        float *to = seen + r * width;
        if (count == 1)
            attend(1, query, 3 * width, keys, values, next, last, mask, p->mask_stride, scale, scores, to, width);
        else
            attend(QUERIES, query, 3 * width, keys, values, next, last, mask, p->mask_stride, scale, scores, to,
                   width);
        r += count;
    }
}

/* GPT-2 but for its output layer, over the rows of `count` pieces that lie end to end: from their ids and positions
   (rows) to the last states (wanted_rows, heads * DIM) of the rows in `wanted`. `longest`: positions that the longest
   piece has with its new ones. */
int parley_gpt2(const Gpt2 *model, const Piece *pieces, int64_t count, int64_t longest, const int64_t *ids,
                const int64_t *positions, int64_t rows, const int64_t *wanted, int64_t wanted_rows, float *last,
                int64_t threads) {
    const int64_t heads = model->heads, width = heads * DIM, wide = model->blocks[0].widen.outputs;
    const int64_t scores = QUERIES * (longest + 16);
    if (!within(ids, rows, model->vocabulary) || !within(positions, rows, model->positions)) return OUT_OF_RANGE;
    const int64_t floats = rows * (width + 3 * width + width + wide) + threads * scores;
    char *room = aligned_alloc(64, (4 * floats + rows * (wide + 8) + 1024) / 64 * 64), *free_room = room;
    if (!room) return NO_MEMORY;
    const Rows q = take_rows(&free_room, rows, wide);
    float *state = take(&free_room, 4 * rows * width), *asked = take(&free_room, 4 * rows * 3 * width);
    float *seen = take(&free_room, 4 * rows * width), *bent = take(&free_room, 4 * rows * wide);
    float *all_scores = take(&free_room, 4 * threads * scores);
#pragma omp parallel num_threads(threads)
    {
        float *own_scores = all_scores + omp_get_thread_num() * scores;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            embed(model, ids[r], positions[r], width, state + r * width);
        for (int64_t layer = 0; layer < model->layers; layer++) {
            const Block *block = model->blocks + layer;
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) {
                normalize(state + r * width, width, block->before, seen + r * width);
                quantize(seen + r * width, width, r, q);
            }
            product(&block->ask, q, rows, asked, NOTHING);
#pragma omp for schedule(static)
            for (int64_t job = 0; job < count * heads; job++) {
                const Piece *piece = pieces + job / heads;
                int64_t row = 0;
                for (const Piece *p = pieces; p < piece; p++) row += p->rows;
                attend_head(piece, layer, heads, job % heads, block->scale, asked + row * 3 * width,
                            own_scores, seen + row * width);
            }
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) quantize(seen + r * width, width, r, q);
            product(&block->answer, q, rows, state, ADD);
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) {
                normalize(state + r * width, width, block->between, seen + r * width);
                quantize(seen + r * width, width, r, q);
            }
            product(&block->widen, q, rows, bent, GELU);
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) quantize(bent + r * wide, wide, r, q);
            product(&block->narrow, q, rows, state, ADD);
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < wanted_rows; r++)
            normalize(state + wanted[r] * width, width, model->last, last + r * width);
    }
    free(room);
    return 0;
}

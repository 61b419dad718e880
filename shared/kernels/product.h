/* Products of 8-bit weights. */

#pragma once

#include "vectors.h"

enum { SUMS = 24 };               /* of a tile, in as many of the 32 registers: of each row and 16 outputs */
enum { FEW = 2, MANY = 4 };       /* times 16 outputs of a tile: many of few rows, few of many rows */
enum { NEAR = 512, FAR = 4096 };  /* bytes ahead that weights are fetched, into the first and the second cache */

typedef struct {
    const uint8_t *weights; /* each + 128; (outputs / 16, inputs / 4, 16, 4), outputs filled up to FEW * 16 */
    const float *scales;    /* (outputs) */
    const float *bias;      /* (outputs) */
    int64_t inputs;         /* a multiple of 16 */
    int64_t outputs;
} Linear;

typedef struct { /* rows in 8 bits */
    int8_t *x;
    float *scales;
    int32_t *offsets; /* 128 times the sum of a row, by which products with weights + 128 are too high */
} Rows;

enum Then { NOTHING, GELU, ADD };

static Rows take_rows(char **room, int64_t rows, int64_t width) {
    Rows taken = {take(room, rows * width), take(room, rows * 4), take(room, rows * 4)};
    return taken;
}

static void quantize(const float *x, int64_t width, int64_t row, Rows out) {
    __m512 most = _mm512_set1_ps(1e-30f); /* a row of zeros must not divide by zero */
    __mmask16 no_numbers = 0;
    for (int64_t i = 0; i < width; i += 16) {
        const __m512 some = _mm512_loadu_ps(x + i);
        most = _mm512_max_ps(most, _mm512_abs_ps(some));
        no_numbers |= _mm512_cmp_ps_mask(some, some, _CMP_UNORD_Q);
    }
    const float peak = _mm512_reduce_max_ps(most);
    if (no_numbers || isinf(peak)) { /* has none in 8 bits either: let nothing come of it that looks like one */
        memset(out.x + row * width, 0, width);
        out.scales[row] = NAN;
        out.offsets[row] = 0;
        return;
    }
    const __m512 by = _mm512_set1_ps(127.0f / peak);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < width; i += 16) {
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), by));
        sum = _mm512_add_epi32(sum, q);
        _mm_storeu_si128((__m128i *)(out.x + row * width + i), _mm512_cvtsepi32_epi8(q));
    }
    out.scales[row] = peak / 127.0f;
    out.offsets[row] = 128 * _mm512_reduce_add_epi32(sum);
}

/* The tanh form of Hendrycks and Gimpel (2016), as GPT-2 has it: x (1 + tanh u) / 2 is x / (1 + e^-2u). */
INLINE __m512 gelu(__m512 x) {
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 u = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
    const __m512 e = exponential(_mm512_mul_ps(u, _mm512_set1_ps(-1.5957691216f)));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

/* The product of `count` rows with `blocks` (both constants) times 16 outputs, which begin at `out` and lie `apart`.
   Meanwhile weights are fetched that are read later: `ahead` bytes behind those of each block that are read now. */
INLINE void tile(const Linear *l, Rows in, int64_t row, const int count, const int blocks, int64_t out,
                 int64_t apart, float *y, enum Then then, const int64_t ahead[MANY]) {
    const int64_t inputs = l->inputs;
    const char *weights = (const char *)l->weights + out * inputs;
    const int8_t *x = in.x + row * inputs;
    __m512i sums[SUMS / FEW][MANY];
#pragma GCC unroll 12
    for (int r = 0; r < count; r++)
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) sums[r][b] = _mm512_setzero_si512();
    for (int64_t i = 0; i < inputs; i += 4) {
        __m512i w[MANY];
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) {
            const char *at = weights + b * apart * inputs + 16 * i;
            w[b] = _mm512_loadu_si512(at);
            _mm_prefetch(at + NEAR, _MM_HINT_T0);
            _mm_prefetch(at + ahead[b], _MM_HINT_T1);
        }
#pragma GCC unroll 12
        for (int r = 0; r < count; r++) {
            int32_t four;
            memcpy(&four, x + r * inputs + i, 4);
            const __m512i four_each = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int b = 0; b < blocks; b++) sums[r][b] = _mm512_dpbusd_epi32(sums[r][b], w[b], four_each);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < count; r++)
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) {
            const int64_t from = out + b * apart;
            if (from >= l->outputs) continue;
            const __mmask16 some = first(l->outputs - from);
            const __m512i sum = _mm512_sub_epi32(sums[r][b], _mm512_set1_epi32(in.offsets[row + r]));
            const __m512 scale = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, l->scales + from),
                                               _mm512_set1_ps(in.scales[row + r]));
            float *to = y + (row + r) * l->outputs + from;
            __m512 made =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_maskz_loadu_ps(some, l->bias + from));
            if (then == GELU) made = gelu(made);
            if (then == ADD) made = _mm512_add_ps(made, _mm512_maskz_loadu_ps(some, to));
            _mm512_mask_storeu_ps(to, some, made);
        }
}

#define CASE(count, blocks)                                                                                  \
    case 16 * (count) + (blocks): tile(l, in, row, count, blocks, out, apart, y, then, ahead); break;

static void rows_by_outputs(const Linear *l, Rows in, int64_t row, int64_t count, int64_t blocks, int64_t out,
                            int64_t apart, float *y, enum Then then, const int64_t ahead[MANY]) {
    switch (16 * count + blocks) {
        CASE(1, MANY) CASE(2, MANY) CASE(3, MANY) CASE(4, MANY) CASE(5, MANY) CASE(6, MANY)
        CASE(1, FEW) CASE(2, FEW) CASE(3, FEW) CASE(4, FEW) CASE(5, FEW) CASE(6, FEW)
        CASE(7, FEW) CASE(8, FEW) CASE(9, FEW) CASE(10, FEW) CASE(11, FEW) CASE(12, FEW)
    }
}

/* y = x W' + b, then what `then` says; ADD adds to what is in y. Called by all threads of a team.

   A thread reads its share of the weights in as many streams as a tile has blocks, each from one end to the other:
   several at once are read faster than one. Where rows take more than one tile, the next weights are fetched
   meanwhile, one stream's with the first tile and the other's with the second. */
static void product(const Linear *l, Rows in, int64_t rows, float *y, enum Then then) {
    const int64_t blocks = rows <= SUMS / MANY ? MANY : FEW, most = SUMS / FEW, groups = (rows + most - 1) / most;
    const int64_t pairs = (l->outputs + 31) / 32, threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t begin = pairs * thread / threads * 2, end = pairs * (thread + 1) / threads * 2;
    const int64_t stream = (end - begin) / blocks, next = 16 * l->inputs;
    const int64_t far[MANY] = {FAR, FAR, FAR, FAR};
    const int64_t ahead[3][MANY] = {{next, 0}, {0, next}, {0, 0}};
    for (int64_t block = begin; block < begin + stream; block++)
        for (int64_t group = 0; group < groups; group++) {
            const int64_t row = rows * group / groups, count = rows * (group + 1) / groups - row;
            rows_by_outputs(l, in, row, count, blocks, 16 * block, 16 * stream, y, then,
                            groups == 1 ? far : ahead[group < 2 ? group : 2]);
        }
    if ((end - begin) % blocks) rows_by_outputs(l, in, 0, rows, FEW, 16 * (end - FEW), 16, y, then, far);
#pragma omp barrier
}

/* y = x W' + b, x (rows, inputs), y (rows, outputs). */
int parley_linear(const Linear *l, const float *x, int64_t rows, float *y, int64_t threads) {
    char *room = aligned_alloc(64, (rows * (l->inputs + 8) + 256) / 64 * 64), *free_room = room;
    if (!room) return NO_MEMORY;
    const Rows q = take_rows(&free_room, rows, l->inputs);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) quantize(x + r * l->inputs, l->inputs, r, q);
        product(l, q, rows, y, NOTHING);
    }
    free(room);
    return 0;
}

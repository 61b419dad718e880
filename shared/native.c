/* What takes most of the time of a reply and of an intent, for x86 processors with AVX-512 VNNI: products of 8-bit
   weights, GPT-2 and BERT as one call each, and the draw of a token. `native.py` describes the functions to Python,
   which computes with torch where this file was not compiled or does not run.

   Decoding is bound by how fast weights are read. So they lie in the order in which they are read, are read
   once for all rows, and ahead of their use, so that memory works while the processor computes.

   What is computed for a row depends on that row and what it sees alone, to the last bit: no sum's order depends
   on what else is in the batch, on the number of threads, on whether a prompt is read at once or in pieces, or on
   where in the cache a token lies. Nothing here keeps state. */

/* To be raised with that of native.py whenever a function or a struct changes: what was compiled may be older. */
enum { INTERFACE = 6 };

/* INTERFACE, or 0 where this processor lacks what is needed. */
int parley_interface(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    const int able = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                     && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    return able ? INTERFACE : 0;
#else
    return 0;
#endif
}

#if defined(__x86_64__) && defined(__GNUC__)

#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum { DIM = 64 };                /* of a head */
enum { SUMS = 24 };               /* of a tile, in as many of the 32 registers: of each row and 16 outputs */
enum { FEW = 2, MANY = 4 };       /* times 16 outputs of a tile: many of few rows, few of many rows */
enum { QUERIES = 4 };             /* for which keys and values are read together */
enum { NEAR = 512, FAR = 4096 };  /* bytes ahead that weights are fetched, into the first and the second cache */

typedef struct {
    const uint8_t *weights; /* each + 128; (outputs / 16, inputs / 4, 16, 4), outputs filled up to FEW * 16 */
    const float *scales;    /* (outputs) */
    const float *bias;      /* (outputs) */
    int64_t inputs;         /* a multiple of 16 */
    int64_t outputs;
} Linear;

typedef struct {
    const float *weight, *bias;
    float epsilon;
} Norm;

typedef struct {
    Norm before, between;
    Linear ask, answer, widen, narrow;
    float scale; /* of attention scores */
} Block;

typedef struct {
    uint16_t *held;      /* keys and values (layers, 2, heads, capacity, DIM) in half precision */
    const float *mask;   /* (rows, length + rows), added to the scores; none: every row sees everything */
    int64_t mask_stride; /* from row to row */
    int64_t capacity;
    int64_t length; /* how many positions hold what they should */
    int64_t rows;   /* new ones after them */
} Piece;

typedef struct { /* rows in 8 bits */
    int8_t *x;
    float *scales;
    int32_t *offsets; /* 128 times the sum of a row, by which products with weights + 128 are too high */
} Rows;

typedef struct {
    const int8_t *words;      /* (vocabulary, width) */
    const float *word_scales; /* (vocabulary) */
    const float *places;      /* (positions, width) */
    int64_t vocabulary, positions;
    const Block *blocks;
    int64_t layers, heads;
    Norm last;
} Gpt2;

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

typedef struct { /* how tokens are drawn, see sampling.py */
    float temperature, top_p, penalty;
    int64_t top_k;
} Rules;

enum { NO_MEMORY = -1, OUT_OF_RANGE = -2 }; /* what functions return that fail; the others 0 */

enum Then { NOTHING, GELU, ADD };

INLINE int within(const int64_t *numbers, int64_t count, int64_t below) {
    for (int64_t i = 0; i < count; i++)
        if (numbers[i] < 0 || numbers[i] >= below) return 0;
    return 1;
}

INLINE __mmask16 first(int64_t count) { return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1); }

/* e^x to about 2 units in the last place, and 0 where x is -87 or less. (Range reduction and polynomial are those
   of Cephes, expf; Moshier 1992.) */
INLINE __m512 exponential(__m512 x) {
    const __mmask16 more = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GT_OQ);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 f = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    f = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), f);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(f, f), _mm512_add_ps(f, _mm512_set1_ps(1.0f)));
    return _mm512_maskz_scalef_ps(more, p, n);
}

/* The tanh form of Hendrycks and Gimpel (2016), as GPT-2 has it: x (1 + tanh u) / 2 is x / (1 + e^-2u). */
INLINE __m512 gelu(__m512 x) {
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 u = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
    const __m512 e = exponential(_mm512_mul_ps(u, _mm512_set1_ps(-1.5957691216f)));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

static void normalize(const float *x, int64_t width, Norm norm, float *y) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
    for (int64_t i = 0; i < width; i += 16) {
        const __m512 d = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
        squares = _mm512_fmadd_ps(d, d, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / (float)width;
    const __m512 by = _mm512_set1_ps(1.0f / sqrtf(variance + norm.epsilon));
    for (int64_t i = 0; i < width; i += 16) {
        const __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), by);
        _mm512_storeu_ps(
            y + i, _mm512_fmadd_ps(d, _mm512_loadu_ps(norm.weight + i), _mm512_loadu_ps(norm.bias + i)));
    }
}

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

INLINE __m128 quarter(__m512 x) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x),
                                      _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

INLINE __m512 load_half(const uint16_t *at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
}

static void store_half(uint16_t *at, const float *x) {
    for (int i = 0; i < DIM; i += 16)
        _mm256_storeu_si256((__m256i *)(at + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
}

/* Attention of `count` queries (a constant) to `seen` positions of one head. Queries and results lie
   `ask_stride` and `width` apart; `scores` has room for `count` rows of seen + 16. The keys and
   values that lie `next` further on are fetched meanwhile: the next head's. */
INLINE void attend(const int count, const float *query, int64_t ask_stride, const uint16_t *keys,
                   const uint16_t *values, int64_t next, int64_t seen, const float *mask, int64_t mask_stride,
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
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const int64_t at = (j + k < seen ? j + k : seen - 1) * DIM;
            __m512 key[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) key[i] = load_half(keys + at + 16 * i);
            _mm_prefetch((const char *)(keys + next + at), _MM_HINT_T1);
            _mm_prefetch((const char *)(keys + next + at + DIM / 2), _MM_HINT_T1);
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
            _mm_storeu_ps(scores + r * stride + j, _mm_add_ps(some, others));
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
        __m512 value[4];
        _mm_prefetch((const char *)(values + next + j * DIM), _MM_HINT_T1);
        _mm_prefetch((const char *)(values + next + j * DIM + DIM / 2), _MM_HINT_T1);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) value[i] = load_half(values + j * DIM + 16 * i);
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
    uint16_t *keys = p->held + (2 * layer * heads + head) * p->capacity * DIM;
    uint16_t *values = keys + heads * p->capacity * DIM;
    const int64_t next = p->capacity * DIM;
    asked += head * DIM;
    seen += head * DIM;
    for (int64_t r = 0; r < p->rows; r++) {
        store_half(keys + (p->length + r) * DIM, asked + (3 * r + 1) * width);
        store_half(values + (p->length + r) * DIM, asked + (3 * r + 2) * width);
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

static void *take(char **room, int64_t bytes) {
    char *taken = *room;
    *room += (bytes + 63) / 64 * 64;
    return taken;
}

static Rows take_rows(char **room, int64_t rows, int64_t width) {
    Rows taken = {take(room, rows * width), take(room, rows * 4), take(room, rows * 4)};
    return taken;
}

/* Ask for large pages, where there are such, of which fewer addresses have to be looked up. */
void parley_large_pages(void *memory, int64_t bytes) {
#if defined(__linux__)
    const uintptr_t page = 4096, begin = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)memory + (uintptr_t)bytes) / page * page;
    if (end > begin) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#endif
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

typedef struct {
    float value;
    int32_t column;
} Score;

INLINE int lower(Score a, Score b) { return a.value < b.value || (a.value == b.value && a.column > b.column); }

/* Put `score` in place of the lowest of a heap, which is at its top. */
static void replace_lowest(Score *heap, int64_t count, Score score) {
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && lower(heap[child + 1], heap[child])) child++;
        if (!lower(heap[child], score)) break;
        heap[at] = heap[child];
    }
    heap[at] = score;
}

/* The heap of the `count` highest of a row, the lowest at its top; of equals the first. Where a row has fewer numbers,
   minus infinity and column 0 stand for the rest. */
static void highest(const float *row, int64_t columns, int64_t count, Score *heap) {
    for (int64_t i = 0; i < count; i++) heap[i] = (Score){-INFINITY, 0};
    for (int64_t j = 0; j < columns; j += 16) {
        const __m512 some = _mm512_maskz_loadu_ps(first(columns - j), row + j);
        const __m512 least = _mm512_set1_ps(heap[0].value);
        unsigned higher = _mm512_mask_cmp_ps_mask(first(columns - j), some, least, _CMP_GT_OQ);
        for (; higher; higher &= higher - 1) {
            const int64_t column = j + __builtin_ctz(higher);
            if (row[column] > heap[0].value) replace_lowest(heap, count, (Score){row[column], (int32_t)column});
        }
    }
}

/* The logarithm of the sum of e^x of a row; no number where one of its own is none. */
static float logsumexp(const float *row, int64_t columns) {
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    __mmask16 no_numbers = 0;
    for (int64_t j = 0; j < columns; j += 16) {
        const __m512 some = _mm512_mask_loadu_ps(most, first(columns - j), row + j);
        most = _mm512_max_ps(most, some);
        no_numbers |= _mm512_cmp_ps_mask(some, some, _CMP_UNORD_Q);
    }
    const float peak = _mm512_reduce_max_ps(most);
    for (int64_t j = 0; j < columns; j += 16) {
        const __mmask16 here = first(columns - j);
        const __m512 e = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(here, row + j), _mm512_set1_ps(peak)));
        sum = _mm512_mask_add_ps(sum, here, sum, e);
    }
    return no_numbers ? NAN : peak + logf(_mm512_reduce_add_ps(sum));
}

/* One of `count` scores, highest first: of those that make up `top_p` of the probability, the one that `uniform`
   in [0, 1) falls on. `room` is for as many numbers. */
static int64_t drawn(const Score *scores, int64_t count, float temperature, float top_p, float uniform, float *room) {
    float total = 0, before = 0, mass = 0;
    for (int64_t i = 0; i < count; i++) {
        room[i] = expf((scores[i].value - scores[0].value) / temperature);
        total += room[i];
    }
    for (int64_t i = 0; i < count; i++) {
        const float probability = room[i] / total;
        if (before < top_p) mass += probability;
        before += probability;
        room[i] = mass;
    }
    int64_t chosen = 0;
    while (chosen < count - 1 && room[chosen] < uniform * mass) chosen++;
    return chosen;
}

/* A token for each row of `logits` (rows, columns) and its log probability before all rules. `said` are the tokens of
   which repetition is penalised, `forbidden` those that may not come, each once and in one of both; `ends` (rows, 2)
   says where each row's end. Logits change meanwhile. */
int parley_draw(float *logits, int64_t rows, int64_t columns, const Rules *rules, const int64_t *said,
                const int64_t *forbidden, const int64_t *ends, const float *uniform, int64_t *tokens,
                float *logprobs, int64_t threads) {
    const int64_t count = rules->top_k, ruled = rows ? ends[2 * rows - 2] + ends[2 * rows - 1] : 0;
    const int64_t *last = ends + 2 * rows - 2;
    if (rows && !(within(said, last[0], columns) && within(forbidden, last[1], columns))) return OUT_OF_RANGE;
    Score *heaps = malloc(rows * count * 2 * sizeof(Score) + 1);
    float *room = malloc((rows * count + ruled) * sizeof(float) + 1);
    if (!heaps || !room) {
        free(heaps), free(room);
        return NO_MEMORY;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *row = logits + r * columns, *own = room + r * count;
        const int64_t s0 = r ? ends[2 * r - 2] : 0, f0 = r ? ends[2 * r - 1] : 0;
        const int64_t s1 = ends[2 * r], f1 = ends[2 * r + 1];
        float *before = room + rows * count + s0 + f0;
        Score *heap = heaps + 2 * r * count, *sorted = heap + count;
        const float sum = logsumexp(row, columns);
        for (int64_t i = s0; i < s1; i++) {
            const float value = before[i - s0] = row[said[i]];
            row[said[i]] = value < 0 ? value * rules->penalty : value / rules->penalty;
        }
        for (int64_t i = f0; i < f1; i++) {
            before[s1 - s0 + i - f0] = row[forbidden[i]];
            row[forbidden[i]] = -INFINITY;
        }
        highest(row, columns, count, heap);
        for (int64_t i = s0; i < s1; i++) row[said[i]] = before[i - s0];
        for (int64_t i = f0; i < f1; i++) row[forbidden[i]] = before[s1 - s0 + i - f0];
        for (int64_t left = count; left > 0; left--) {
            sorted[left - 1] = heap[0];
            replace_lowest(heap, left - 1, heap[left - 1]);
        }
        tokens[r] = sorted[drawn(sorted, count, rules->temperature, rules->top_p, uniform[r], own)].column;
        logprobs[r] = row[tokens[r]] - sum;
    }
    free(heaps), free(room);
    return 0;
}

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

#endif

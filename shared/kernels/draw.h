/* The draw of a token. */

#pragma once

#include "vectors.h"

typedef struct { /* how tokens are drawn, see sampling.py */
    float temperature, top_p, penalty;
    int64_t top_k;
} Rules;

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

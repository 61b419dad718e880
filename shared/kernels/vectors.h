/* Vectors of 16 floats, and what every kernel needs. */

#pragma once

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

enum { QUERIES = 4 }; /* of attention, for which keys and values are read together */

enum { NO_MEMORY = -1, OUT_OF_RANGE = -2 }; /* what functions return that fail; the others 0 */

typedef struct {
    const float *weight, *bias;
    float epsilon;
} Norm;

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

static void *take(char **room, int64_t bytes) {
    char *taken = *room;
    *room += (bytes + 63) / 64 * 64;
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

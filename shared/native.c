/* What takes most of the time of a reply and of an intent, for x86 processors with AVX-512 VNNI: products of 8-bit
   weights, GPT-2 and BERT as one call each, and the draw of a token. `native.py` describes the functions to Python,
   which computes with torch where this file was not compiled or does not run.

   Decoding is bound by how fast weights are read. So they lie in the order in which they are read, are read
   once for all rows, and ahead of their use, so that memory works while the processor computes.

   What is computed for a row depends on that row and what it sees alone, to the last bit: no sum's order depends
   on what else is in the batch, on the number of threads, on whether a prompt is read at once or in pieces, or on
   where in the cache a token lies. Nothing here keeps state. */

/* To be raised with that of native.py whenever a function or a struct changes: what was compiled may be older. */
enum { INTERFACE = 7 };

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

#include "kernels/bert.h"
#include "kernels/draw.h"
#include "kernels/gpt2.h"

#endif

/* What one core can do at best: the bounds that every figure is printed beside.

   Built with -DBYTES=<vector register bytes>; GCC's and Clang's vector types make it the same source on every CPU. */

#include <stddef.h>

typedef float vector __attribute__((vector_size(BYTES)));

enum { CHAINS = 10 }; /* latency 4 x 2 units needs 8; 10 and the two operands fit 16 registers */

/* rounds x CHAINS multiply-adds, each chain depending on itself alone. The unknown start and the result that is used
   keep the compiler from computing any of it beforehand. */
float fma_chains(long rounds, float start)
{
    vector factor = {0}, offset = {0}, chain[CHAINS];
    factor += 0.5f;
    offset += 1.0f;
    for (int k = 0; k < CHAINS; k++)
        chain[k] = offset * (start + (float)k);
    for (long i = 0; i < rounds; i++) {
#pragma GCC unroll 10
        for (int k = 0; k < CHAINS; k++)
            chain[k] = chain[k] * factor + offset;
    }
    for (int k = 1; k < CHAINS; k++)
        chain[0] += chain[k];
    return chain[0][0];
}

int fma_flops_per_round(void) { return 2 * CHAINS * (int)(sizeof(vector) / sizeof(float)); }

/* Reads every byte of the buffer `passes` times, in four streams, as the best prefetching sees it. */
float read_passes(const vector *data, size_t vectors, long passes)
{
    vector sum[4] = {{0}};
    size_t quarter = vectors / 4;
    for (long pass = 0; pass < passes; pass++) {
        __asm__ volatile("" : : "r"(data) : "memory");
        for (size_t i = 0; i < quarter; i++)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
                sum[k] += data[k * quarter + i];
    }
    sum[0] += sum[1] + sum[2] + sum[3];
    return sum[0][0];
}

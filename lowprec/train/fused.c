/* Rounding of a float32 tensor in one pass: the bits of lowprec.rounding and lowprec.philox, which see.
 *
 * The innermost loops have fixed lengths and no branches, for the compiler to make vectors of. Needs arithmetic as
 * written: no -ffast-math, and -ffp-contract=off.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { GRID, FLOATING, BINARY };
enum { NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO, DOWN, UP, STOCHASTIC };
enum { BLOCKS = 16, ELEMENTS = 4 * BLOCKS };

typedef struct {
    int32_t kind, rounding, bits_used;
    int32_t mantissa, has_infinity, has_subnormals, has_negative_zero;
    float step, inverse_step;    /* of a grid, or of a Float's subnormals */
    float low, high;             /* the bounds of a grid; the largest number and the smallest normal of a Float */
    float draws;                 /* 2^bits_used */
    uint32_t key0, key1, at;     /* the tensor's key, and the step of the draw */
} Rule;

INLINE float from_bits(uint32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
INLINE uint32_t to_bits(float x) { uint32_t bits; memcpy(&bits, &x, sizeof bits); return bits; }
INLINE float clamp(float x, float low, float high) { x = x < high ? x : high; return x > low ? x : low; }

/* The words of BLOCKS blocks in a row, in the elements' order. */
INLINE void philox(const Rule *rule, uint64_t first, uint32_t *restrict words) {
    uint32_t out[4][BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        uint32_t c0 = (uint32_t)(first + i), c1 = (uint32_t)((first + i) >> 32), c2 = rule->at, c3 = 0;
        uint32_t k0 = rule->key0, k1 = rule->key1;
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            uint64_t p0 = (uint64_t)c0 * 0xD2511F53u, p1 = (uint64_t)c2 * 0xCD9E8D57u;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c1 = (uint32_t)p1;
            c3 = (uint32_t)p0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        out[0][i] = c0;
        out[1][i] = c1;
        out[2][i] = c2;
        out[3][i] = c3;
    }
    for (int i = 0; i < ELEMENTS; i++) words[i] = out[i % 4][i / 4];
}

/* The draw where x is negative, its complement where it is not: below the share, the magnitude grows. */
INLINE uint32_t drawn(float x, uint32_t word, const Rule *rule) {
    uint32_t sign = 0u - (to_bits(x) >> 31);
    return (word ^ ~sign) >> (32 - rule->bits_used);
}

/* Whether the magnitude grows by a step of `unit`, of which `rest` is left; `share` is what it is of 2^bits_used. */
INLINE uint32_t grows(int rounding, float x, float rest, float unit, float share, uint32_t odd, uint32_t word,
                      const Rule *rule) {
    uint32_t negative = to_bits(x) >> 31;
    switch (rounding) {
    case NEAREST_EVEN: return (rest > 0.5f * unit) | ((rest == 0.5f * unit) & odd);
    case NEAREST_AWAY: return rest >= 0.5f * unit;
    case DOWN: return (rest > 0.0f) & negative;
    case UP: return (rest > 0.0f) & (negative ^ 1u);
    case STOCHASTIC: return drawn(x, word, rule) < (uint32_t)nearbyintf(share);
    default: return 0;
    }
}

INLINE float on_grid(int rounding, float x, uint32_t word, const Rule *rule) {
    float near = clamp(x, rule->low - rule->step, rule->high + rule->step);
    int32_t whole = (int32_t)(near * rule->inverse_step);
    float rest = fabsf(near - (float)whole * rule->step), share = rest * rule->inverse_step * rule->draws;
    int32_t sign = to_bits(x) >> 31 ? -1 : 1;
    whole += (int32_t)grows(rounding, x, rest, rule->step, share, (uint32_t)whole & 1u, word, rule) * sign;
    return clamp((float)whole * rule->step, rule->low, rule->high) + 0.0f; /* two's complement has no -0 */
}

INLINE float floating(int rounding, float x, uint32_t word, const Rule *rule) {
    uint32_t sign = to_bits(x) & 0x80000000u;
    float magnitude = fabsf(x);
    int dropped = 23 - rule->mantissa;
    uint32_t pattern = to_bits(magnitude), kept = pattern >> dropped;
    float tail = (float)(int32_t)(pattern & ((1u << dropped) - 1u)) / (float)(1u << dropped);
    uint32_t up = grows(rounding, x, tail, 1.0f, tail * rule->draws, kept & 1u, word, rule);
    float result = from_bits((kept + up) << dropped);
    if (rule->has_subnormals) {
        float steps = (magnitude < rule->low ? magnitude : rule->low) * rule->inverse_step;
        int32_t whole = (int32_t)steps;
        float rest = steps - (float)whole;
        uint32_t more = grows(rounding, x, rest, 1.0f, rest * rule->draws, (uint32_t)whole & 1u, word, rule);
        result = magnitude < rule->low ? (float)(whole + (int32_t)more) * rule->step : result;
    }
    int stays = (rounding == TOWARD_ZERO) | (rounding == DOWN && !sign) | (rounding == UP && sign);
    float over = !rule->has_infinity || (stays && magnitude <= 3.40282347e38f) ? rule->high : INFINITY;
    result = result > rule->high ? over : result;
    float negative = rule->has_negative_zero || result != 0.0f ? -result : result;
    return sign ? negative : result;
}

INLINE float binary(int rounding, float x, uint32_t word, const Rule *rule) {
    switch (rounding) {
    case DOWN: return x >= 1.0f ? 1.0f : -1.0f;
    case UP: return x > -1.0f ? 1.0f : -1.0f;
    case STOCHASTIC: {
        uint32_t draw = drawn(x, word, rule), half = 1u << (rule->bits_used - 1);
        float near = fabsf(x) < 1.0f ? fabsf(x) : 1.0f;
        /* Half of 2^k is odd where k is 1, so that ties go the other way. */
        uint32_t share = rule->bits_used == 1 ? near >= 0.5f : (uint32_t)nearbyintf(near * (rule->draws * 0.5f));
        int crosses = (draw & half) && (draw & (half - 1u)) >= share;
        return (to_bits(x) >> 31) == (uint32_t)crosses ? 1.0f : -1.0f;
    }
    default: return x >= 0.0f ? 1.0f : -1.0f;
    }
}

INLINE float one(int kind, int rounding, float x, uint32_t word, const Rule *rule) {
    float result = kind == GRID       ? on_grid(rounding, x, word, rule)
                   : kind == FLOATING ? floating(rounding, x, word, rule)
                                      : binary(rounding, x, word, rule);
    return (to_bits(x) & 0x7FFFFFFFu) > 0x7F800000u ? x : result; /* NaN stays */
}

INLINE void pass(int kind, int rounding, const float *x, float *y, int64_t count, uint64_t start,
                        const uint32_t *bits, const Rule *given) {
    Rule rule = *given; /* a copy that nothing else can change */
    uint32_t words[ELEMENTS + 4] = {0};
    int64_t skipped = bits ? 0 : (int64_t)(start % 4); /* of the first block */
    for (int64_t begin = -skipped; begin < count; begin += ELEMENTS) {
        const uint32_t *drawn_words = words;
        if (rounding == STOCHASTIC && !bits) philox(&rule, (start + (uint64_t)begin) / 4, words);
        int64_t first = begin < 0 ? -begin : 0, last = count - begin < ELEMENTS ? count - begin : ELEMENTS;
        if (rounding == STOCHASTIC && bits) drawn_words = bits + begin;
        if (first == 0 && last == ELEMENTS) {
            for (int i = 0; i < ELEMENTS; i++)
                y[begin + i] = one(kind, rounding, x[begin + i], drawn_words[i], &rule);
        } else {
            for (int64_t i = first; i < last; i++)
                y[begin + i] = one(kind, rounding, x[begin + i], rounding == STOCHASTIC ? drawn_words[i] : 0, &rule);
        }
    }
}

#define CASE(kind, rounding)                                        \
    case (kind) * 8 + (rounding):                                   \
        pass(kind, rounding, x, y, count, start, bits, rule);       \
        break;
#define CASES(kind)                                                                             \
    CASE(kind, NEAREST_EVEN) CASE(kind, NEAREST_AWAY) CASE(kind, TOWARD_ZERO) CASE(kind, DOWN)  \
    CASE(kind, UP) CASE(kind, STOCHASTIC)

/* y[i] = x[i] rounded; draws are `bits`, or, where there are none, those of elements `start` on. */
void lowprec_round(const float *restrict x, float *restrict y, int64_t count, uint64_t start,
                   const uint32_t *restrict bits, const Rule *rule) {
    switch (rule->kind * 8 + rule->rounding) {
        CASES(GRID)
        CASES(FLOATING)
        CASES(BINARY)
    }
}

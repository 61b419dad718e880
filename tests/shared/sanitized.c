/* Runs the native code in memory that ends exactly where it may not read or write on. Compiled with sanitizers, which
   end it with an error at the first access beyond. */

#include "../../shared/native.c"

#include <stdio.h>

static void *block_of(int64_t bytes, int value) {
    void *made = malloc((size_t)bytes);
    memset(made, value, (size_t)bytes);
    return made;
}

static float *floats(int64_t count) {
    float *made = block_of(4 * count, 0);
    for (int64_t i = 0; i < count; i++) made[i] = (float)(i * 37 % 101) / 101 - 0.5f;
    return made;
}

static Linear linear(int64_t outputs, int64_t inputs) {
    const int64_t padded = (outputs + 31) / 32 * 32;
    Linear made = {block_of(padded * inputs, 131), floats(outputs), floats(outputs), inputs, outputs};
    return made;
}

static void linears(void) {
    const int64_t shapes[][2] = {{1, 16}, {31, 16}, {32, 48}, {33, 16}, {301, 1024}};
    const int64_t rows[] = {0, 1, 5, 12, 13, 24, 25, 40};
    for (int s = 0; s < 5; s++)
        for (int r = 0; r < 8; r++)
            for (int threads = 1; threads <= 3; threads++) {
                const Linear l = linear(shapes[s][0], shapes[s][1]);
                float *x = floats(rows[r] * l.inputs), *y = floats(rows[r] * l.outputs);
                if (rows[r]) x[0] = s % 2 ? NAN : INFINITY;
                parley_linear(&l, x, rows[r], y, threads);
                free(x), free(y), free((void *)l.weights), free((void *)l.scales), free((void *)l.bias);
            }
}

static int64_t *numbers(int64_t count, int64_t below) {
    int64_t *made = block_of(8 * count, 0);
    for (int64_t i = 0; i < count; i++) made[i] = i * 7 % below;
    return made;
}

static Norm norm(void) {
    Norm made = {floats(2 * DIM), floats(2 * DIM), 1e-5f};
    return made;
}

static void pieces(int64_t first_rows, int64_t second_rows, int64_t length, int masked, int64_t threads) {
    const int64_t heads = 2, width = heads * DIM, layers = 2, rows = first_rows + second_rows;
    Block blocks[2];
    for (int i = 0; i < 2; i++)
        blocks[i] = (Block){norm(), norm(), linear(3 * width, width), linear(width, width),
                            linear(4 * width, width), linear(width, 4 * width), 0.125f};
    Piece both[2];
    for (int i = 0; i < 2; i++) {
        const int64_t own = i ? second_rows : first_rows, begin = i ? 0 : length, all = begin + own;
        float *mask = floats(own * all);
        for (int64_t r = 0; r < own; r++)
            for (int64_t j = 0; j < all; j++) mask[r * all + j] = j > begin + r ? -INFINITY : 0;
        both[i] = (Piece){block_of(2 * layers * heads * all * KEPT, 0), masked ? mask : 0, all, all, begin, own};
        if (!masked) free(mask);
    }
    const int64_t vocabulary = 37, positions = length + rows, wanted_rows = (rows + 1) / 2;
    const Gpt2 model = {block_of(vocabulary * width, 3), floats(vocabulary), floats(positions * width), vocabulary,
                        positions, blocks, layers, heads, norm()};
    int64_t *ids = numbers(rows, vocabulary), *places = numbers(rows, positions);
    int64_t *wanted = numbers(wanted_rows, rows);
    float *last = floats(wanted_rows * width);
    ids[rows - 1] = vocabulary;
    if (parley_gpt2(&model, both, 2, length, ids, places, rows, wanted, wanted_rows, last, threads) != OUT_OF_RANGE)
        exit(4);
    ids[rows - 1] = vocabulary - 1;
    parley_gpt2(&model, both, 2, length + first_rows > second_rows ? length + first_rows : second_rows, ids, places,
                rows, wanted, wanted_rows, last, threads);
    for (int64_t i = 0; i < wanted_rows * width; i++)
        if (!isfinite(last[i])) exit(2);
}

static void texts(int64_t first_tokens, int64_t second_tokens, int64_t heads, int64_t dim, int kinds, int64_t threads) {
    const int64_t width = heads * dim, wide = width + 48, rows = first_tokens + second_tokens;
    const int64_t longest = first_tokens > second_tokens ? first_tokens : second_tokens;
    const Norm own = {floats(width), floats(width), 1e-12f};
    Layer layers[2];
    for (int i = 0; i < 2; i++)
        layers[i] = (Layer){linear(3 * width, width), linear(width, width), linear(wide, width),
                            linear(width, wide), own, own};
    const Bert model = {floats(37 * width), floats(longest * width), floats(2 * width), 37, longest, 2,
                        own, layers, 2, heads, width};
    int64_t *ids = numbers(rows, 37), *variety = numbers(rows, 2), ends[] = {first_tokens, rows};
    float *state = floats(rows * width);
    ids[rows - 1] = 37;
    if (parley_bert(&model, ids, 0, ends, 2, longest, state, threads) != OUT_OF_RANGE) exit(4);
    ids[rows - 1] = 36, variety[0] = 2;
    if (parley_bert(&model, ids, variety, ends, 2, longest, state, threads) != OUT_OF_RANGE) exit(4);
    if (parley_bert(&model, ids, 0, ends, 2, longest + 1, state, threads) != OUT_OF_RANGE) exit(4);
    variety[0] = 1;
    parley_bert(&model, ids, kinds ? variety : 0, ends, 2, longest, state, threads);
    for (int64_t i = 0; i < rows * width; i++)
        if (!isfinite(state[i])) exit(2);
}

static void draws(int64_t rows, int64_t columns, int64_t top_k, int64_t threads) {
    const Rules rules = {0.7f, 0.9f, 1.2f, top_k};
    float *logits = floats(rows * columns), *uniform = floats(rows), *logprobs = floats(rows);
    int64_t *ends = numbers(2 * rows, 1), *tokens = numbers(rows, 1);
    for (int64_t r = 0; r < rows; r++) ends[2 * r] = r + 1, ends[2 * r + 1] = (r + 1) / 2;
    int64_t *said = numbers(rows, columns), *forbidden = numbers(rows / 2, columns);
    for (int64_t r = 0; r < rows / 2; r++) forbidden[r] = columns - 1 - forbidden[r];
    if (rows) logits[0] = columns % 2 ? NAN : -INFINITY;
    if (rows) {
        said[0] = columns;
        if (parley_draw(logits, rows, columns, &rules, said, forbidden, ends, uniform, tokens, logprobs, threads)
            != OUT_OF_RANGE)
            exit(4);
        said[0] = columns - 1;
    }
    parley_draw(logits, rows, columns, &rules, said, forbidden, ends, uniform, tokens, logprobs, threads);
    for (int64_t r = 0; r < rows; r++)
        if (tokens[r] < 0 || tokens[r] >= columns) exit(3);
}

int main(void) {
    if (!parley_interface()) return 77;
    linears();
    const int64_t rows[] = {1, 3, 4, 7, 16}, lengths[] = {0, 1, 15, 16, 61};
    for (int a = 0; a < 5; a++)
        for (int b = 0; b < 5; b++)
            for (int masked = 0; masked < 2; masked++)
                pieces(rows[a], rows[(a + b) % 5], lengths[b], masked, 1 + a % 3);
    const int64_t tokens[] = {1, 3, 4, 16, 17, 40};
    for (int a = 0; a < 6; a++)
        for (int b = 0; b < 6; b++) texts(tokens[a], tokens[b], 1 + b % 3, 16 * (1 + a % 3), a % 2, 1 + b % 3);
    const int64_t columns[] = {1, 15, 16, 301, 5000};
    for (int a = 0; a < 5; a++)
        for (int64_t rows_drawn = 0; rows_drawn < 5; rows_drawn++)
            draws(rows_drawn, columns[a], columns[a] < 50 ? columns[a] : 50, 1 + a % 3);
    puts("clean");
    return 0;
}

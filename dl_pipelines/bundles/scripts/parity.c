/* Runs every row of a file through the model and prints the largest difference from the expected answers.
 * ./parity inputs.bin outputs.bin [answers.bin [limit]]; ends with 1 above the limit, and where one is not a number. */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static model_input input;
static model_output output, expected;

int main(int count, char **arguments) {
    if (count < 3) return fprintf(stderr, "usage: parity inputs.bin outputs.bin [answers.bin [limit]]\n"), 2;
    FILE *rows = fopen(arguments[1], "rb"), *answers = fopen(arguments[2], "rb");
    FILE *taken = count > 3 ? fopen(arguments[3], "wb") : NULL;
    if (!rows || !answers || (count > 3 && !taken)) return perror("parity"), 2;
    const MODEL_OUTPUT_TYPE *found = (const MODEL_OUTPUT_TYPE *)output;
    const MODEL_OUTPUT_TYPE *wanted = (const MODEL_OUTPUT_TYPE *)expected;
    double largest = 0, limit = count > 4 ? strtod(arguments[4], NULL) : INFINITY;
    long seen = 0;
    for (; fread(input, sizeof input, 1, rows) == 1 && fread(expected, sizeof expected, 1, answers) == 1; ++seen) {
        memset(output, 0, sizeof output);
        model(input, output);
        if (taken && fwrite(output, sizeof output, 1, taken) != 1) return perror("parity"), 2;
        for (size_t at = 0; at < sizeof output / sizeof *found; ++at) {
            double apart = fabs((double)found[at] - (double)wanted[at]);
            if (!isnan(largest) && !(apart <= largest)) largest = apart;
        }
    }
    if (taken && fclose(taken) != 0) return perror("parity"), 2;
    printf("%ld rows, largest difference %.2e\n", seen, largest);
    return seen > 0 && largest <= limit ? 0 : 1;
}

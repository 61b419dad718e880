"""What both services need and nothing about either."""

import os

# Set before torch is imported. Its threads spin while they wait for each other, by libgomp's default for
# several milliseconds: where the two services share cores a classification of 15 ms then takes 300. Without
# any spinning each of the hundred products of a decoded token waits for threads to be woken: 19 ms instead of
# 13. This many turns, about a tenth of a millisecond, last from one product to the next and not much longer.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

"""What both services need and nothing about either."""

import os

# Set before torch is imported. Otherwise its threads spin while they wait for each other, and where the two
# services share cores a classification of 15 ms takes 300.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

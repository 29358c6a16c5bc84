"""Every hot loop: the reference in plain torch, which faster kernels must equal.

Importing this package before torch makes OpenMP threads sleep at a barrier instead of spinning.
With a spinning barrier any other work on the machine stops a step until the scheduler gives the
core back: two threads on two cores with one neighbour were measured ten times slower.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

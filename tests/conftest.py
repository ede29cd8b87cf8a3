"""One thread, so that tests are fast on small machines and sums have one order."""

import torch

torch.set_num_threads(1)

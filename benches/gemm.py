#!/usr/bin/env python3
"""Prints the best matrix product that PyTorch's libraries reach here, as JSON: {"f32": FLOP/s, "bf16": FLOP/s}."""
import json
import sys
import time

import torch

SHAPES = [(1024, 1024, 1024), (2048, 2048, 2048), (4096, 2048, 2048), (4096, 512, 1536)]


def best(dtype, seconds=1.0):
    fastest = 0.0
    for m, n, k in SHAPES:
        a, b, out = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.empty(m, n, dtype=dtype)
        until, runs = time.perf_counter() + seconds / len(SHAPES), 0
        # The first run of a shape compiles it. bf16 without instructions for it takes seconds: then the first run must do.
        while runs < 2 or time.perf_counter() < until:
            begin = time.perf_counter()
            torch.mm(a, b, out=out)
            took = time.perf_counter() - begin
            fastest, runs = max(fastest, 2.0 * m * n * k / took), runs + 1
            if took > seconds:
                return fastest
    return fastest


torch.set_num_threads(int(sys.argv[1]))
print(json.dumps({"f32": best(torch.float32), "bf16": best(torch.bfloat16)}))

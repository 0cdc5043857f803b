"""Time and memory of reading a million steps: ``python benchmarks/read_steps.py``.

Every case is read in a fresh process, so that the peak of its memory is its own.
"""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

N_ROWS = 1_000_000
RESULT = Path(__file__).parent / "results" / "read_steps.md"

CHILD = """
import json, resource, sys, time
start = time.perf_counter()
from bayeslat.observations import read_steps
imported = time.perf_counter()
steps = read_steps(sys.argv[1])
read = time.perf_counter()
steps.fingerprint
print(json.dumps({
    "rows": len(steps),
    "quarantined": steps.quarantine.n_quarantined,
    "import_s": imported - start,
    "read_s": read - imported,
    "fingerprint_s": time.perf_counter() - read,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def million_steps() -> pd.DataFrame:
    rng = np.random.default_rng(20)
    batch = rng.integers(1, 257, N_ROWS)
    tokens = batch + rng.integers(0, 4096, N_ROWS) * (rng.random(N_ROWS) < 0.3)
    gpus = np.array(["A100-80GB", "H100-80GB", "L40S", "H200"])
    models = np.array(["llama-7b", "llama-13b", "llama-70b", "mixtral-8x7b"])
    context = batch * rng.integers(16, 2048, N_ROWS)
    latency = (20.0 + 0.2 * tokens + 5e-4 * context) * rng.lognormal(0.0, 0.05, N_ROWS)
    return pd.DataFrame(
        {
            "gpu": gpus[rng.integers(0, 4, N_ROWS)],
            "model": models[rng.integers(0, 4, N_ROWS)],
            "tp": rng.choice([4, 8], N_ROWS),
            "engine": "vllm",
            "phase": np.where(tokens > batch, "mixed", "decode"),
            "batch_size": batch,
            "total_tokens": tokens,
            "context_tokens": context,
            "latency_ms": latency.round(3),
        }
    )


def written_cases(folder: Path) -> dict[str, Path]:
    steps = million_steps()
    names = ("steps.csv", "steps.csv.gz", "bad.csv", "steps.parquet", "steps.jsonl")
    paths = {name: folder / name for name in names}
    steps.to_csv(paths["steps.csv"], index=False)
    steps.to_csv(paths["steps.csv.gz"], index=False)
    steps.to_parquet(paths["steps.parquet"])
    steps.to_json(paths["steps.jsonl"], orient="records", lines=True)
    spoilt = steps.astype({"latency_ms": object})
    spoilt.loc[N_ROWS // 2, "latency_ms"] = "fast"
    spoilt.to_csv(paths["bad.csv"], index=False)
    return {
        "CSV": paths["steps.csv"],
        "CSV, gzip": paths["steps.csv.gz"],
        "CSV, one row with text for a number": paths["bad.csv"],
        "Parquet": paths["steps.parquet"],
        "JSON lines": paths["steps.jsonl"],
    }


def measured(path: Path) -> dict[str, float]:
    command = [sys.executable, "-c", CHILD, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A child inherits the peak of its parent's memory, so the table is made in a child too.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as writer:
            cases = writer.submit(written_cases, Path(folder)).result()
        results = {label: measured(path) for label, path in cases.items()}
    lines = [
        "# Reading a million steps",
        "",
        "Made by `python benchmarks/read_steps.py`. Target: CSV read and checked within 5 s and",
        "1 GB of peak memory, the whole process counted. Import and fingerprint are apart.",
        "",
        "| file | rows kept | quarantined | import, s | read and check, s | fingerprint, s "
        "| peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label, row in results.items():
        lines.append(
            f"| {label} | {row['rows']:,} | {row['quarantined']} | {row['import_s']:.1f} "
            f"| {row['read_s']:.1f} | {row['fingerprint_s']:.1f} | {row['peak_mb']:.0f} |"
        )
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

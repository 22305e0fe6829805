"""Records the golden curves anew: `python tests/numerics/record_golden.py [FOLDER]`, by default those in `golden/`.

Do so only where losses are meant to change, and say in the commit why they do. The test records into a folder of its
own and compares.

Which instructions a library computes with depends on the processor, and so does the last bit of a sum. `PINNED` holds
them to what every x86 processor with AVX2 has; libraries read it while they load, hence the process of its own. On one
processor ATEN, MKL and oneDNN each change bits when they are set otherwise, by some 1e-7 of a loss, and OpenBLAS those
of intervals; NumPy's setting is a precaution.
"""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"

PINNED = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",  # the one choice of MKL's that Intel and AMD share
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's products
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # NumPy's logarithms
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
}


def record(folder: Path) -> None:
    subprocess.run([sys.executable, TESTS / "support" / "golden_runs.py", folder], env=os.environ | PINNED, check=True)


if __name__ == "__main__":
    record(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else GOLDEN)

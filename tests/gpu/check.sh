#!/usr/bin/env bash
# What one GPU does with this project, in about ten minutes: tests/gpu/check.sh OUT [--tiny]
# Tests, then the figures of the encoders and of whole steps. --tiny: small figures on a CPU, to see that it runs.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$1; shift
python=${PYTHON:-python3}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$PWD/tests/support${PYTHONPATH:+:$PYTHONPATH}"
[ $# -eq 0 ] || export TRANSREC_GPU_TESTS_ON_THE_CPU=1
part() { echo "== $SECONDS s: $1"; shift; timeout "$@" || failed=1; }
failed=0
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
part tests 330 "$python" -m pytest tests/gpu -q -p no:cacheprovider > "$out/tests.log" 2>&1
grep -E "^(FAILED|ERROR|E  )|passed|failed" "$out/tests.log" | cut -c1-300
part "passes of the encoders" 160 "$python" tests/gpu/encoder_passes.py "$out/encoder_passes.json" "$@"
part "training steps" 240 "$python" tests/gpu/training_steps.py "$out/training_steps.json" "$@"
echo "== $SECONDS s: end"
exit $failed

#!/usr/bin/env bash
# Test and time everything that runs on a GPU, once, in at most eight minutes; leaves one log and one JSON.
#
#     benchmarks/gpu_check.sh [--out DIR] [--wheels DIR] [--rehearse]
#
# It asks for a Python with PyTorch and Triton (another than `python3` in $PYTHON) and a C compiler; what else is missing is installed for
# this run alone from the wheels in a folder, without the internet. `--rehearse` tries the script without a GPU: Triton
# interprets, tests that need CUDA skip, limits are ten times as long, and the times mean nothing. Exit status 0: every
# stage ended well.
set -uo pipefail

out=gpu-check wheels="" rehearse="" slower=1 python=${PYTHON:-python3}
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --wheels) wheels=$2; shift 2 ;;
    --rehearse) rehearse=1; shift ;;
    *) echo "usage: benchmarks/gpu_check.sh [--out DIR] [--wheels DIR] [--rehearse]" >&2; exit 2 ;;
  esac
done
mkdir -p "$out" && out=$(cd "$out" && pwd)
[ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1
: > "$out/gpu_check.log"

# stage NAME LIMIT_S COMMAND...: run it under a limit of its own, and note how it ended and how long it took.
stage() {
  local name=$1 limit=$2 begin=$SECONDS status
  shift 2
  echo "== $name: $*" | tee -a "$out/gpu_check.log"
  timeout --kill-after=5 $((limit * slower)) "$@" 2>&1 | tee -a "$out/gpu_check.log"
  status=${PIPESTATUS[0]}
  echo "$name $status $((SECONDS - begin))" >> "$parts/stages"
  echo "== $name ended with $status after $((SECONDS - begin)) s" | tee -a "$out/gpu_check.log"
}

if [ -n "$wheels" ]; then
  stage install 60 "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$parts/site" "$wheels"/*.whl
  export PYTHONPATH=$PYTHONPATH:$parts/site
fi
where=()
if [ -n "$rehearse" ]; then
  export TRITON_INTERPRET=1
  slower=10 where=(--device cpu --small)
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "benchmarks/gpu_check.sh: PyTorch sees no GPU here; --rehearse tries the script without one" >&2
  exit 2
elif ! command -v cc > /dev/null && ! command -v gcc > /dev/null && ! command -v clang > /dev/null; then
  echo "benchmarks/gpu_check.sh: Triton needs a C compiler (cc, gcc or clang) and Python's headers" >&2
  exit 2
fi
stage doctor 60 "$python" -m saplab doctor
# Other versions than the pinned ones may warn; that is not what is tested here.
stage tests 210 "$python" -m pytest -o addopts= -o filterwarnings=default -p no:cacheprovider -q -ra -m gpu \
  --junitxml "$parts/tests.xml" tests/pruning tests/defenses
stage times 150 "$python" benchmarks/gpu.py --stages --json "$parts/times.json" ${where[@]+"${where[@]}"}

"$python" - "$parts" "$out/gpu_check.json" <<'PYTHON'
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import torch

parts, target = map(Path, sys.argv[1:])
lines = (line.split() for line in (parts / "stages").read_text().splitlines())
stages = {name: {"status": int(status), "seconds": int(seconds)} for name, status, seconds in lines}
found = {"torch": torch.__version__, "gpu": None, "stages": stages}
if torch.cuda.is_available():
    found["gpu"] = torch.cuda.get_device_name()
if (parts / "tests.xml").exists():
    suite = next(ET.parse(parts / "tests.xml").iter("testsuite"))
    found["tests"] = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    found["failed"] = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
if (parts / "times.json").exists():
    found["times"] = json.loads((parts / "times.json").read_text())
target.write_text(json.dumps(found, indent=1) + "\n")
sys.exit(any(stage["status"] for stage in stages.values()))
PYTHON
status=$?
echo "$out/gpu_check.log and $out/gpu_check.json are written"
exit $status

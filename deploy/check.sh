#!/bin/sh
# compose.yaml with this machine's engine: up, submit, scale, kill the pool's container in the middle, down. In a project
# of its own, without ports; what it starts and stores is removed at the end, its images are not.
#
#   sh deploy/check.sh        takes some minutes; ends with 69 where there is no engine
set -eu
cd "$(dirname "$0")/.."
docker info >/dev/null 2>&1 || { echo "not checked: no Docker engine answers here" >&2; exit 69; }
docker compose version >/dev/null 2>&1 || { echo "not checked: docker has no Compose" >&2; exit 69; }

models=$(mktemp -d)
cat > "$models/busy.py" <<'MODEL'
import time
import penstock

@penstock.model(name="busy", version="1", max_size=4)
def busy(batch: list[int]) -> list[int]:
    """A device that takes 50 ms for each."""
    time.sleep(0.05 * len(batch))
    return [number * number for number in batch]
MODEL
cat > "$models/ask.py" <<'CLIENT'
import time
import penstock

with penstock.Client() as client:
    jobs = client.enqueue_many("busy", list(range(1000)))
    print("submitted", flush=True)
    began = time.monotonic()
    squares = {job.id: number * number for number, job in enumerate(jobs)}
    for job in client.as_completed(jobs, timeout=400):
        assert job.output == squares.pop(job.id), job
    assert not squares, f"{len(squares)} jobs were lost"
    print(f"1000 right answers after {time.monotonic() - began:.0f} s")
CLIENT
chmod -R a+rX "$models"
export MODELS_DIR="$models" PENSTOCK_MODELS=busy WORKERS=4
compose() { docker compose -p penstock-check "$@"; }
trap 'status=$?; compose down -v >/dev/null 2>&1; rm -r "$models"; exit $status' EXIT

sh deploy/secrets.sh >/dev/null
compose up -d --build redis postgres migrate dispatcher pool-cpu
[ "$(compose exec -T dispatcher penstock run busy 7)" = 49 ]
compose exec -T dispatcher python /models/ask.py &
sleep 15
compose exec -T dispatcher penstock autoscaler status
compose kill -s KILL pool-cpu
compose up -d pool-cpu
wait $!
compose exec -T dispatcher penstock autoscaler explain
echo "ok: the jobs of a pool that was killed were all done"

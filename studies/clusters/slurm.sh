#!/bin/bash
# kdsearch on Slurm:  STUDY=my_study.yaml sbatch studies/clusters/slurm.sh
#
# Starts Ray on the job's nodes and runs the study on them. Two minutes before the time limit the study is stopped in good order
# (kdsearch exits with 143) and the job is queued again; the same command then goes on where it was.
#SBATCH --job-name=kdsearch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=0
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

STUDY=${STUDY:?name a study, as in: STUDY=my_study.yaml sbatch slurm.sh}
OUTPUT=${OUTPUT:-runs}                     # on a file system that outlives the job
STORE=${STORE:-}                           # a folder that all nodes see, or s3://...; empty: each node keeps its own
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 10000))}
[[ -z ${VENV:-} ]] || source "$VENV/bin/activate"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD_IP=${HEAD_IP:-$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address | cut -d' ' -f1)}
head="$HEAD_IP:$PORT"
# Ray's ports are open to the nodes' network, to whoever has this job's token (Ray 2.52 and newer).
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}
fixed=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --min-worker-port=0 --max-worker-port=0 --block)
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT

srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
  ray start --head --node-ip-address="$HEAD_IP" --port="$PORT" --dashboard-host=127.0.0.1 --include-dashboard=false "${fixed[@]}" &
for ((tries = 0; tries < 120; tries++)); do
  ray status --address="$head" >/dev/null 2>&1 && break
  sleep 1
done
others=$((${#nodes[@]} - 1))
if ((others > 0)); then
  srun --nodes="$others" --ntasks="$others" --exclude="${nodes[0]}" ray start --address="$head" "${fixed[@]}" &
fi

# This script runs on the first node. Nodes that come up later get trials when they do.
kdsearch run "$STUDY" --address "$head" --output "$OUTPUT" ${STORE:+--store "$STORE"} "$@" &
driver=$!
trap 'kill -TERM "$driver" 2>/dev/null' TERM INT
wait "$driver"
code=$?
while kill -0 "$driver" 2>/dev/null; do # a signal ended the wait, and the study is being closed
  wait "$driver"
  code=$?
done
((code == 143)) && scontrol requeue "$SLURM_JOB_ID"
exit "$code"

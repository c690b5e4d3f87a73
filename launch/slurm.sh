#!/bin/bash
# Train on several nodes of a SLURM cluster, and go on by itself when the time limit cuts the run:
#   sbatch --nodes 2 --gpus-per-node 8 launch/slurm.sh --config launch/recipes/default.yaml \
#       data.shards=/shared/shards/photos run.dir=/shared/runs/photos
# Every word after the script goes to launch/train.py; run.dir=... must be among them. Shards and the run folder lie on
# storage that all nodes see (shards may also be at an address, s3://...).
#SBATCH --job-name=streamgan
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
# Five minutes before the limit every training process finishes its step, writes a checkpoint and exits with 0.
#SBATCH --signal=USR1@300
set -euo pipefail

run=""
for word in "$@"; do
    case "$word" in run.dir=*) run="${word#run.dir=}" ;; esac
done
if [[ -z "$run" ]]; then
    echo "launch/slurm.sh: no run folder; add run.dir=/shared/runs/NAME" >&2
    exit 2
fi

address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node use different ones
export MAIN_ADDRESS="$address" MAIN_PORT="$port"

# One launcher a node. It ignores USR1, which would end it; the training processes it starts listen again.
# shellcheck disable=SC2016  # to be expanded on each node
srun --kill-on-bad-exit=1 bash -c '
    trap "" USR1
    exec accelerate launch --config_file launch/accelerate/multi_node.yaml \
        --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
        --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_ADDRESS" --main_process_port "$MAIN_PORT" \
        launch/train.py "$@"
' bash "$@"

# All ranks ended well: either the run is done, or it was asked to stop.
if streamgan runs "$run" --json | grep -q '"state": "stopped"'; then
    echo "launch/slurm.sh: $run was stopped before its end; the job goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi

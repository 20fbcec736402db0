#!/usr/bin/env bash
# Trains on the nodes of a SLURM job: sbatch --nodes 4 launch/slurm.sh --config FILE --workdir DIR ...
#
# One process a GPU: JAX reads their number and their ranks from what srun sets, and each takes the
# GPU of its local rank. DIR lies on storage that all nodes see. Two minutes before its
# time is over the run is told to stop: it saves its last step and ends with code 143. A job that is
# queued again goes on from there.
#SBATCH --job-name=transformer-jax
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
set -euo pipefail

# Some clusters set proxies, through which the processes would not find one another.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

# Submit it from the root of the repository, with the environment that has the library.
exec srun --kill-on-bad-exit=1 python train.py "$@"

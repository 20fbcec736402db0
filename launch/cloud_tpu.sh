#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice:
#
#     launch/cloud_tpu.sh NAME ZONE --config FILE --workdir /mnt/RUNS/NAME ...
#
# The same command starts on every host; libtpu tells JAX how many there are and which is which.
# The workdir is on storage that all hosts have mounted.
# The repository and its environment (.venv, by `make setup` and `pip install '.[tpu]'`) are in
# ~/transformer_jax on each host.
set -euo pipefail

if (($# < 4)); then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
name=$1 zone=$2
shift 2

printf -v flags '%q ' "$@"
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
    --command "cd transformer_jax && .venv/bin/python train.py $flags"

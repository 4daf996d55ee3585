#!/usr/bin/env bash
# Several processes on this machine: launch/by_hand.sh N EXPERIMENT [arguments of r1jax run]
#
# Each process sees all devices of the machine that it is not kept from. On CPUs JAX_NUM_CPU_DEVICES says how many each has (1);
# on GPUs R1JAX_GPUS_EACH (1) are given to each. SIGTERM and SIGINT reach all. The exit status is that of the first that failed.
set -u
count=$1
shift
port=${R1JAX_PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
each=${R1JAX_GPUS_EACH:-1}
running=()
trap 'kill -TERM "${running[@]}" 2>/dev/null' TERM INT
for ((i = 0; i < count; i++)); do
  CUDA_VISIBLE_DEVICES=$(seq -s, $((i * each)) $(((i + 1) * each - 1))) \
    r1jax run "$@" --coordinator "127.0.0.1:$port" --processes "$count" --process "$i" &
  running+=($!)
done
status=0
for pid in "${running[@]}"; do
  wait "$pid"
  one=$?
  while kill -0 "$pid" 2>/dev/null; do # the wait was ended by a signal, and not the process
    wait "$pid"
    one=$?
  done
  [ $status -ne 0 ] || status=$one
done
exit $status

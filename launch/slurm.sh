#!/usr/bin/env bash
# SLURM, a process a GPU: sbatch --nodes=4 launch/slurm.sh EXPERIMENT --workdir /shared/runs/NAME [arguments of r1jax run]
#
# jax asks SLURM who the others are. Each task sees all GPUs of its node and takes that of its own number, so do not bind them
# (--gpus-per-task). The workdir has to be on a file system that all nodes share. --open-mode=append keeps one log over restarts.
#SBATCH --job-name=r1jax
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
#
# Time limit and preemption: SLURM sends SIGTERM to the tasks 300 s before the end, the run saves, and exits with 143; the job then asks
# to be queued again. So it does where a task failed, at most R1JAX_TRIES times (20), but not on bad input (2).
set -u
srun --kill-on-bad-exit=0 --label r1jax run "$@" &
running=$!
wait $running
status=$?
while kill -0 $running 2>/dev/null; do
  wait $running
  status=$?
done
case $status in
0 | 2 | 130) exit $status ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -lt "${R1JAX_TRIES:-20}" ]; then
  echo "slurm.sh: exit status $status; asking for the queue again (so far ${SLURM_RESTART_COUNT:-0} times)" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status

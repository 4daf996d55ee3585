#!/usr/bin/env bash
# Starts a command again until it has ended well: launch/again.sh COMMAND...
#
# Not after bad input (2), which would be the same again, nor where the run was asked to stop (130, 143): whoever asked decides.
# R1JAX_TRIES (100) bounds how often, R1JAX_PAUSE (10) is how many seconds lie between.
set -u
status=0
for ((try = 1; try <= ${R1JAX_TRIES:-100}; try++)); do
  "$@"
  status=$?
  case $status in 0 | 2 | 130 | 143) exit $status ;; esac
  echo "again.sh: exit status $status; try $((try + 1)) in ${R1JAX_PAUSE:-10} s" >&2
  sleep "${R1JAX_PAUSE:-10}"
done
exit $status

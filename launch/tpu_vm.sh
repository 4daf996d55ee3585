#!/usr/bin/env bash
# A TPU pod of spot VMs, made again whenever it is taken away, until the run is over. Run it where gcloud is signed in:
#
#   NAME=r1 ZONE=us-east5-a TYPE=v5p-256 IMAGE=v2-alpha-tpuv5 \
#   SETUP='…mount the shared folder; pip install "r1jax[tpu]"…' launch/tpu_vm.sh EXPERIMENT --workdir /shared/runs/NAME [arguments]
#
# SETUP runs on every VM before the run, and has to mount what the VMs share: the workdir, and the experiment's file. SLICES (1) is how
# many slices; TIER ('--spot') may be '--reserved' or ''. jax finds the other VMs by the machines' metadata; nothing is passed.
# `gcloud … ssh --worker=all` ends with an error where the command ends so on any VM; a pod that was taken away looks the same.
set -u
: "${NAME:?}" "${ZONE:?}" "${TYPE:?}" "${IMAGE:?}" "${SETUP:?}"
slices=${SLICES:-1}
tier=${TIER---spot}

state() {
  gcloud compute tpus queued-resources describe "$NAME" --zone "$ZONE" --format='value(state.state)' 2>/dev/null
}

create() {
  local nodes=(--node-id "$NAME")
  [ "$slices" -eq 1 ] || nodes=(--node-count "$slices" --node-prefix "$NAME")
  # shellcheck disable=SC2086 # no tier is no word
  gcloud compute tpus queued-resources create "$NAME" --zone "$ZONE" "${nodes[@]}" \
    --accelerator-type "$TYPE" --runtime-version "$IMAGE" $tier
}

on_all() { # COMMAND on every VM of every slice, at once; fails where it fails on one
  local pids=() i failed=0 node
  for ((i = 0; i < slices; i++)); do
    node=$NAME
    [ "$slices" -eq 1 ] || node=$NAME-$i
    gcloud compute tpus tpu-vm ssh "$node" --zone "$ZONE" --worker=all --command "$1" &
    pids+=($!)
  done
  for i in "${pids[@]}"; do wait "$i" || failed=$?; done
  return $failed
}

run="r1jax run$(printf ' %q' "$@")"
while true; do
  case $(state) in
  ACTIVE)
    # 2: bad input is the same again. The status of a command is not passed on by gcloud, so it is printed
    on_all "$SETUP" && on_all "rm -f /tmp/r1jax-bad-input; $run; status=\$?; [ \$status -ne 2 ] || touch /tmp/r1jax-bad-input; exit \$status" && break
    on_all 'test ! -e /tmp/r1jax-bad-input' || [ "$(state)" != ACTIVE ] || exit 2
    ;;
  '') create || exit 1 ;;
  FAILED | SUSPENDED | SUSPENDING)
    gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force --quiet
    ;;
  esac
  sleep 30
done
gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force --quiet

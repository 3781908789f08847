#!/bin/bash
# Several machines under Slurm, a launcher on each: sbatch configuration/accelerate/slurm.sh --config RECIPE [--flag …]
#
# Two minutes before its time is up, or when it is preempted, the job gets SIGTERM: train.py writes a checkpoint, and the
# job goes back into the queue to go on from there. --output_dir has to be on a file system that all machines share.
#SBATCH --job-name=slimresnet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

export num_processes=$((SLURM_NNODES * SLURM_GPUS_PER_NODE))
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export address

trap 'stopped=yes; kill -TERM $launch' TERM
# In single quotes, for each machine to put its own number in.
srun --kill-on-bad-exit=0 bash -c '
    exec accelerate launch --config_file configuration/accelerate/multi_node.yaml \
        --num_machines "$SLURM_NNODES" --num_processes "$num_processes" --machine_rank "$SLURM_NODEID" \
        --main_process_ip "$address" train.py --resume_from_checkpoint last "$@"
' bash "$@" &
launch=$!
wait $launch
status=$?
if [ -n "$stopped" ]; then
    wait $launch # the first one was cut short by the signal
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status

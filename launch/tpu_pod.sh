#!/usr/bin/env bash
# Installs nasformer for TPUs into .venv and runs it as one process of a Cloud TPU pod. To be run on all of its hosts at once:
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='cd nasformer && bash launch/tpu_pod.sh FLAGS'
# with this checkout in ~/nasformer and the data on each host. The first host keeps --workdir.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
install "[tpu]"
exec "$VENV/bin/python" -m nasformer.main --distributed "$@"

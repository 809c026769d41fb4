#!/usr/bin/env bash
# Turns a Deep Learning AMI (Ubuntu 24.04), or Amazon Linux 2023 for what needs no GPU, into a
# machine of cis-tasks. The launch template's user data runs it as root, once it has written
# /etc/cis/environment (for our processes) and /etc/cis/host (for this script) and has unpacked
# the code to /opt/cis/app.
#
#   user-data.sh            install what is missing, then start what the machine's tags ask for:
#                           cis-pipeline=<pipeline> is a worker per GPU; cis-role=web, =flower
#   user-data.sh install    install alone, for an image of one's own
set -euo pipefail

readonly APP=/opt/cis/app
readonly VENV=/opt/cis/venv
readonly STATE=/var/lib/cis
readonly METADATA=http://169.254.169.254/latest
readonly NVME=/opt/dlami/nvme # instance store, where the AMI has mounted one

main() {
    # shellcheck source=/dev/null
    source /etc/cis/host
    # shellcheck source=/dev/null
    source <(grep '^AWS_DEFAULT_REGION=' /etc/cis/environment)
    export AWS_DEFAULT_REGION
    command -v aws >/dev/null || fail "This image has no AWS command line."
    make_user
    local token role="" pipeline=""
    token=$(metadata_token)
    if [[ ${1:-} != install ]]; then
        pipeline=$(tag "$token" cis-pipeline)
        role=$(tag "$token" cis-role)
        [[ -n $pipeline || -n $role ]] || fail "The machine has neither the tag cis-pipeline nor cis-role."
    fi
    if [[ -n ${REPOSITORY:-} && -n $pipeline ]]; then
        fetch_container
    else
        install_software "${role:+web}"
    fi
    install_units
    [[ ${1:-} != install ]] || return 0
    tell_logs "$(tag "$token" aws:autoscaling:groupName)"
    if [[ -n $pipeline ]]; then
        start_workers "$pipeline"
    else
        fetch_secrets "$role"
        systemctl enable --now "cis-$role.service"
    fi
}

fail() {
    echo "user-data.sh: $*" >&2
    exit 1
}

metadata_token() {
    curl --fail --silent --show-error --request PUT \
        --header "X-aws-ec2-metadata-token-ttl-seconds: 300" "$METADATA/api/token"
}

# The value of one of the machine's tags, or nothing.
tag() {
    curl --fail --silent --header "X-aws-ec2-metadata-token: $1" \
        "$METADATA/meta-data/tags/instance/$2" || true
}

make_user() {
    id cis >/dev/null 2>&1 || useradd --system --home-dir "$STATE" --shell /usr/sbin/nologin cis
    install --directory --owner cis --group cis --mode 0750 "$STATE" "$STATE/scratch" /var/log/cis
    if mountpoint --quiet "$NVME"; then
        install --directory --owner cis --group cis --mode 0750 "$NVME/cis"
        set_variable CIS_SCRATCH "$NVME/cis"
    else
        set_variable CIS_SCRATCH "$STATE/scratch"
    fi
}

set_variable() {
    sed --in-place "/^$1=/d" /etc/cis/environment
    echo "$1=$2" >>/etc/cis/environment
}

find_python() {
    local name
    for name in python3.12 python3.13 python3.11; do # wheels are for the first
        if command -v "$name" >/dev/null && "$name" -m pip --version >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    if command -v dnf >/dev/null; then # Amazon Linux, whose packages are in S3
        dnf install --assumeyes --quiet python3.12 python3.12-pip >&2
        echo python3.12
        return
    fi
    fail "There is no Python 3.11 or newer with pip."
}

# A venv of exactly the pinned packages; nothing to do where an image has it already.
install_software() {
    local part=${1:-worker}
    local requirements="$APP/requirements-$part.txt" constraints="$APP/constraints.txt"
    local lock="$APP/requirements.lock" stamp="$VENV/.installed" wanted python
    wanted=$(cat "$requirements" "$constraints" | sha256sum | cut --delimiter=' ' --fields=1)
    if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
        python=$(find_python)
        rm -rf "$VENV"
        "$python" -m venv --without-pip "$VENV"
        if [[ -n ${WHEELS:-} ]]; then
            rm -rf /opt/cis/wheels
            mkdir /opt/cis/wheels
            aws s3 cp --only-show-errors "s3://$(bucket)/$WHEELS" - | tar --extract --directory /opt/cis/wheels
            "$python" -m pip --python "$VENV/bin/python" install --quiet --no-index \
                --find-links /opt/cis/wheels --require-hashes --requirement "$lock"
            rm -rf /opt/cis/wheels
        else
            "$python" -m pip --python "$VENV/bin/python" install --quiet \
                --constraint "$constraints" --requirement "$requirements"
        fi
        "$VENV/bin/python" -m compileall -q "$APP" || true
        echo "$wanted" >"$stamp"
    fi
    echo "$APP" >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cis.pth"
    printf '#!/bin/sh\nexec %s/bin/python -m cis_tasks "$@"\n' "$VENV" >/usr/local/bin/cis
    chmod 0755 /usr/local/bin/cis
    "$VENV/bin/python" -c 'import boto3, cis_tasks'
}

bucket() {
    local rest=${CODE#s3://}
    echo "${rest%%/*}"
}

fetch_container() {
    aws ecr get-login-password | docker login --username AWS --password-stdin "$REGISTRY"
    docker pull --quiet "$REGISTRY/$REPOSITORY:$TAG"
    echo "IMAGE=$REGISTRY/$REPOSITORY:$TAG" >/etc/cis/container
    install -D --mode 0644 "$APP/deploy/units/container.conf" /etc/systemd/system/cis-worker@.service.d/container.conf
}

install_units() {
    install --mode 0644 "$APP"/deploy/units/*.service /etc/systemd/system/
    install -D --mode 0644 "$APP/deploy/units/cis-logrotate" /etc/logrotate.d/cis
    systemctl daemon-reload
}

# Logs of our processes and the GPUs' load go to CloudWatch where its agent is installed.
tell_logs() {
    local group=$1 agent=/opt/aws/amazon-cloudwatch-agent
    if [[ ! -x $agent/bin/amazon-cloudwatch-agent-ctl ]] && command -v dnf >/dev/null; then
        dnf install --assumeyes --quiet amazon-cloudwatch-agent >&2 || true
    fi
    if [[ ! -x $agent/bin/amazon-cloudwatch-agent-ctl || -z ${LOG_GROUP:-} ]]; then
        echo "user-data.sh: no CloudWatch agent here; logs stay in /var/log/cis" >&2
        return
    fi
    sed --expression "s|@LOG_GROUP@|$LOG_GROUP|" --expression "s|@GROUP@|$group|" \
        "$APP/deploy/units/cloudwatch-agent.json" >"$agent/etc/cis.json"
    "$agent/bin/amazon-cloudwatch-agent-ctl" -a fetch-config -m ec2 -s -c "file:$agent/etc/cis.json"
}

start_workers() {
    local pipeline=$1 gpus=0 worker
    if command -v nvidia-smi >/dev/null; then
        gpus=$(nvidia-smi --list-gpus | grep --count '^GPU' || true)
    fi
    local workers=("$pipeline-cpu") unit_names=()
    if ((gpus > 0)); then
        mapfile -t workers < <(seq --format "$pipeline-%g" 0 $((gpus - 1)))
    fi
    set_variable CIS_HOST_WORKERS "$(IFS=, && echo "${workers[*]}")"
    for worker in "${workers[@]}"; do
        unit_names+=("cis-worker@$worker.service")
    done
    # All at once: one that does not become ready keeps no other waiting.
    systemctl enable --now --no-block "${unit_names[@]}"
}

# What must not be in a template: from the parameter store into files that root and cis read.
fetch_secrets() {
    umask 077
    case $1 in
    web)
        secret web-tokens >/etc/cis/web-tokens
        printf 'CIS_WEB_WEBHOOK_SECRET=%s\n' "$(secret webhook-secret)" >/etc/cis/secrets
        hide web-tokens cis
        hide secrets root
        ;;
    flower)
        secret flower-password >/etc/cis/flower-password
        hide flower-password cis
        ;;
    *) fail "There is no role $1." ;;
    esac
}

secret() {
    aws ssm get-parameter --with-decryption --name "$SECRETS/$1" --query Parameter.Value --output text
}

hide() {
    chown "root:$2" "/etc/cis/$1"
    chmod 0640 "/etc/cis/$1"
}

umask 022 # cis reads what root installs
main "$@"

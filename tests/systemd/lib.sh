# What the tests inside the box share. Every line that starts with "ok" is something that was proven.
set -euo pipefail
trap 'echo "FAILED at line $LINENO: $BASH_COMMAND"; systemctl status --no-pager "webhookd*" 2>&1 | tail -40 || true' ERR
set -E

ok() { echo "ok $*"; }
fail() { echo "FAILED: $*"; systemctl status --no-pager 'webhookd*' 2>&1 | tail -40 || true; exit 1; }
property() { systemctl show --value --property "$1" "${2:-webhookd.service}"; }
pid() { property MainPID; }

# is WHAT EXPECTED ACTUAL
is() { [ "$2" = "$3" ] || fail "$1: expected $2, got $3"; }
has() { case $3 in *"$2"*) ;; *) fail "$1: no $2 in: $3" ;; esac; }

# within SECONDS COMMAND...: until the command succeeds.
within() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $until ] || fail "not in time: $*"
    sleep 0.1
  done
}

api() { curl --silent --show-error --fail --max-time 30 --cacert /payload/ca.pem "https://localhost$1" "${@:2}"; }
admin() { curl --silent --show-error --fail --max-time 30 --unix-socket /run/webhookd/admin.sock "http://d$1" "${@:2}"; }

# dropin NAME: a drop-in of the service from standard input.
dropin() {
  mkdir -p /etc/systemd/system/webhookd.service.d
  cat >"/etc/systemd/system/webhookd.service.d/$1.conf"
  systemctl daemon-reload
}

# The shipped units under a real systemd, from the first start to the last stop. Runs inside the box.
. /payload/lib.sh

units=/etc/systemd/system
config=/etc/webhookd/webhookd.toml
log=/out/webhookd.log

# --- Installed as the manual says.
( cd /payload/tree; bash -e /payload/by-hand.sh )
api /healthz >/dev/null
systemctl stop webhookd.socket webhookd.service
cp /payload/examples/*.socket $units/
ok "by hand: serves after what the manual says"

# There is no journal in the box.
dropin log <<UNIT
[Service]
StandardOutput=append:$log
StandardError=append:$log
UNIT

# --- The units say nothing that this systemd does not understand.
told=$(systemd-analyze verify webhookd.socket webhookd-admin.socket webhookd-metrics.socket webhookd.service 2>&1) || true
is "systemd-analyze verify" "" "$told"
systemd-analyze security --offline=true --threshold=12 $units/webhookd.service >/dev/null || fail "exposure above 1.2"
ok "units: understood, exposure at most 1.2"

# --- A configuration that is refused: exit 78, and no second try. Without a certificate there is no TLS.
mv /etc/credstore /etc/credstore.away
! systemctl start webhookd.service 2>/dev/null || fail "started without a certificate"
is status 78 "$(property ExecMainStatus)"
sleep 3
is restarts 0 "$(property NRestarts)"
has "what is logged" "there is no certificate" "$(cat $log)"
mv /etc/credstore.away /etc/credstore
systemctl reset-failed webhookd.service
ok "refused: exit 78, said why, not tried again"

# --- Ready only after the store was read; until then more time is asked for, and clients wait at the socket.
mkfifo -m 640 /run/slow.key
chgrp adm /run/slow.key
dropin slow <<UNIT
[Service]
SupplementaryGroups=adm
TimeoutStartSec=6
UNIT
printf '[server]\nlisten = ["127.0.0.1:8443"]\n[secrets]\nkey_file = "/run/slow.key"\n' >$config
systemctl start webhookd.socket
systemctl start --no-block webhookd.service
api /readyz >/out/waited &
waiting=$!
sleep 11
is "after twice the time-out" activating "$(property ActiveState)"
has "its status" "Reading the store" "$(property StatusText)"
kill -0 $waiting || fail "a client was turned away while the store was read: $(cat /out/waited)"
cat /etc/credstore/webhookd.key >/run/slow.key
within 20 systemctl is-active --quiet webhookd.service
wait $waiting
printf '[server]\nlisten = ["127.0.0.1:8443"]\n' >$config
rm /etc/systemd/system/webhookd.service.d/slow.conf /run/slow.key
systemctl daemon-reload
systemctl restart webhookd.service
ok "start: ready only after recovery, more time asked for, clients waited at the socket"

# --- Certificate, its key and the sealing key were read from credentials; nobody in particular, without any right.
api /healthz >/dev/null
[ -e /var/lib/webhookd/webhookd.redb ] || fail "no store"
[ ! -e /var/lib/webhookd/webhookd.key ] || fail "a sealing key was made although one was handed over"
status=$(cat "/proc/$(pid)/status")
has capabilities $'CapEff:\t0000000000000000' "$status"
has "no new privileges" $'NoNewPrivs:\t1' "$status"
has "filter" $'Seccomp:\t2' "$status"
[ "$(stat -c %u "/proc/$(pid)")" != 0 ] || fail "runs as root"
has "status line" "Serving: " "$(within 10 eval '[[ $(property StatusText) = Serving* ]]'; property StatusText)"
! grep -q "limit on open files" $log || fail "complains about what the filter denies"
ok "credentials: certificate, key and sealing key; no user, no capability"

# --- The whole way of an event, inside the sandbox.
admin /admin/tenants/acme -X PUT >/dev/null
token=$(admin /admin/keys -d '{"role":"tenant","tenant":"acme","publish":true}' | grep -o '"whd_[^"]*"' | tr -d '"')
event=$(api /v1/events -H "Authorization: Bearer $token" -d '{"type":"order.created","data":{}}' | grep -o 'evt_[0-9a-f]*' | head -1)
ok "publishing: $event"

# --- The socket outlives the daemon: nobody is refused while it restarts.
( n=0
  while [ ! -e /run/enough ]; do
    api /healthz >/dev/null 2>>/out/refused || echo "exit $?" >>/out/refused
    n=$((n + 1))
    echo $n >/out/asked
  done ) &
hammer=$!
# At least three, and on a busy machine as many as twenty requests take.
restarts=0
asked() { cat /out/asked 2>/dev/null || echo 0; }
until [ $restarts -ge 3 ] && [ "$(asked)" -ge 20 ]; do
  [ $restarts -lt 60 ] || fail "only $(asked) requests over $restarts restarts"
  restarts=$((restarts + 1))
  before=$(pid)
  systemctl restart webhookd.service
  [ "$before" != "$(pid)" ] || fail "not restarted"
  sleep 0.3
done
: >/run/enough
wait $hammer
is "failed requests" "" "$(cat /out/refused)"
api "/v1/events/$event" -H "Authorization: Bearer $token" >/dev/null
ok "restart: $(asked) connections over $restarts restarts, none refused; the event is still there"

# --- A reload with a bad configuration is refused, and the old one serves on; a good one is taken over.
before=$(pid)
cp $config /run/good.toml
echo 'nonsense = 1' >>$config
! systemctl reload webhookd.service 2>/dev/null || fail "a bad configuration was not refused"
is "after the refusal" "active $before" "$(property ActiveState) $(pid)"
api /healthz >/dev/null
! grep -q '"reloaded"' $log || fail "reloaded"
cp /run/good.toml $config
systemctl reload webhookd.service
within 10 grep -q '"reloaded"' $log
is "after the reload" "active $before" "$(property ActiveState) $(pid)"
ok "reload: a bad configuration refused, the old one served on; a good one taken over"

# --- Sockets by name: the administration's and the metrics', each from a unit of its own.
systemctl stop webhookd.service
systemctl start webhookd-admin.socket webhookd-metrics.socket webhookd.service
curl --silent --fail --max-time 10 --unix-socket /run/webhookd-admin.sock http://d/admin/tenants/acme >/dev/null
has metrics webhookd_build_info "$(curl --silent --fail --max-time 10 http://127.0.0.1:9464/metrics)"
[ ! -e /run/webhookd/admin.sock ] || fail "its own socket beside the one handed over"
api /healthz >/dev/null
systemctl stop webhookd-admin.socket webhookd-metrics.socket
systemctl restart webhookd.service
ok "sockets: api, admin and metrics by name"

# --- The watchdog restarts a daemon that stands still. SIGSTOP stops the writer like everything else.
dropin watchdog <<UNIT
[Service]
WatchdogSec=4
UNIT
systemctl restart webhookd.service
before=$(pid)
sleep 9
is "fed in time" "$before" "$(pid)"
kill -STOP "$before"
within 30 eval '[ "$(property NRestarts)" -ge 1 ]'
within 30 systemctl is-active --quiet webhookd.service
[ "$before" != "$(pid)" ] || fail "not restarted"
api "/v1/events/$event" -H "Authorization: Bearer $token" >/dev/null
rm /etc/systemd/system/webhookd.service.d/watchdog.conf
ok "watchdog: a daemon that stood still was restarted"

# --- A backup and its restore, as the manual has them; the sealing key stays where it was.
systemctl daemon-reload
mkdir -p /var/backups
bash -e /payload/backup.sh
api "/v1/events/$event" -H "Authorization: Bearer $token" >/dev/null
later=$(api /v1/events -H "Authorization: Bearer $token" -d '{"type":"order.updated"}' | grep -o 'evt_[0-9a-f]*' | head -1)
bash -e /payload/restore.sh
api "/v1/events/$event" -H "Authorization: Bearer $token" >/dev/null
! api "/v1/events/$later" -H "Authorization: Bearer $token" >/dev/null 2>&1 || fail "that was not the backup"
ok "backup: made while it served, restored"

# --- Another sealing key, as the manual has it.
before=$(cat /etc/credstore/webhookd.key)
bash -e /payload/reseal.sh
[ "$(cat /etc/credstore/webhookd.key)" != "$before" ] || fail "the same key"
api "/v1/events/$event" -H "Authorization: Bearer $token" >/dev/null
ok "sealing key: changed, and everything opens"

# --- The same with the key file in the state folder, where there is no credential.
systemctl stop webhookd.socket webhookd.service
mv /etc/credstore/webhookd.key /var/lib/private/webhookd/webhookd.key
before=$(cat /var/lib/private/webhookd/webhookd.key)
bash -e /payload/reseal-own.sh
[ "$(cat /var/lib/private/webhookd/webhookd.key)" != "$before" ] || fail "the same key"
is "the old key" "$before" "$(cat /var/lib/private/webhookd/webhookd.key.old)"
systemctl start webhookd.socket webhookd.service
api "/v1/events/$event" -H "Authorization: Bearer $token" >/dev/null
ok "own sealing key: changed, and everything opens"

# --- What root makes in the folder of the service is the service's to open; a restore into it, too.
systemctl stop webhookd.socket webhookd.service
state=/var/lib/private/webhookd
webhookd store compact --state-dir $state
systemctl start webhookd.socket webhookd.service
api "/v1/events/$event" -H "Authorization: Bearer $token" >/dev/null
webhookd backup --to /var/backups/another.backup
systemctl stop webhookd.socket webhookd.service
find $state -type f ! -name 'webhookd.key*' -delete
webhookd restore --from /var/backups/another.backup --state-dir $state
systemctl start webhookd.socket webhookd.service
api "/v1/events/$event" -H "Authorization: Bearer $token" >/dev/null
ok "owner: compacted and restored by root, opened by the service"

# --- A clean stop.
systemctl restart webhookd.service
systemctl stop webhookd.socket webhookd.service
is "the end" "inactive success 0" "$(property ActiveState) $(property Result) $(property ExecMainStatus)"
tail -1 $log | grep -q '"stopped"' || fail "the last line of the log: $(tail -1 $log)"
! curl --silent --max-time 5 --insecure https://localhost/healthz || fail "something still answers"
[ ! -e /run/webhookd ] || fail "its runtime folder is left"
ok "stop: clean"

# --- The examples: understood, and port 443 without the socket unit.
for example in low-port egress-deny notify-reload; do
  [ $example != notify-reload ] || [ "$(systemctl --version | awk 'NR == 1 { print $2 }')" -ge 253 ] || continue
  cp /payload/examples/$example.conf $units/webhookd.service.d/
  is "$example.conf" "" "$(systemd-analyze verify webhookd.service 2>&1)"
  [ $example = low-port ] || rm $units/webhookd.service.d/$example.conf
done
printf '[server]\nlisten = ["127.0.0.1:443"]\n' >$config
systemctl daemon-reload
systemctl start webhookd.service
api /healthz >/dev/null
systemctl stop webhookd.service
ok "examples: understood; a low port with the one capability"

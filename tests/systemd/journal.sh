# The journal: native fields of the daemon's lines, under a real systemd with its journal. Runs inside the box.
. /payload/lib.sh

( cd /payload/tree; bash -e /payload/by-hand.sh )
systemctl stop webhookd.socket webhookd.service
mkdir -p /run/log/journal
systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service
cat >/etc/webhookd/webhookd.toml <<'TOML'
[server]
listen = ["127.0.0.1:8443"]
[egress]
require_https = false
allow = ["127.0.0.0/8"]
[log]
access = true
TOML
systemctl start webhookd.socket webhookd.service

admin /admin/tenants/acme -X PUT >/dev/null
token=$(admin /admin/keys -d '{"role":"tenant","tenant":"acme","publish":true}' | grep -o '"whd_[^"]*"' | tr -d '"')
as() { api "$1" -H "Authorization: Bearer $token" "${@:2}"; }
webhook=$(as /v1/webhooks -d '{"url":"http://127.0.0.1:9001/","events":["a"]}' | grep -o 'wbh_[0-9a-f]*')
as /v1/webhooks -d '{"url":"http://127.0.0.1:9002/","events":["b"]}' >/dev/null
event=$(as /v1/events -H 'X-Request-Id: mine-1' -d '{"type":"a"}' | grep -o 'evt_[0-9a-f]*' | head -1)
as /v1/events -d '{"type":"b"}' >/dev/null

found() { journalctl --no-pager --quiet -o cat -u webhookd.service "$@"; }
wait_for() { within 20 eval '[ -n "$(found '"$*"')" ]'; }
wait_for "WEBHOOK_ID=$webhook"
has "by webhook" "an attempt failed webhook=$webhook" "$(found "WEBHOOK_ID=$webhook")"
is "only that webhook's" "" "$(found "WEBHOOK_ID=$webhook" | grep -v "$webhook" || true)"
has "by event" "event=$event" "$(found "EVENT_ID=$event")"
has "by tenant" "$webhook" "$(found TENANT=acme WEBHOOK_ID="$webhook")"
has "by class" "$webhook" "$(found CLASS=connect)"
line=$(journalctl --no-pager --quiet -o json -u webhookd.service "WEBHOOK_ID=$webhook" | head -1)
for field in '"PRIORITY":"6"' '"SYSLOG_IDENTIFIER":"webhookd"' '"TENANT":"acme"' "\"EVENT_ID\":\"$event\"" '"_TRANSPORT":"journal"'; do
  has "fields" "$field" "$line"
done
ok "fields: by webhook, event, tenant and class"

wait_for REQUEST_ID=mine-1
line=$(journalctl --no-pager --quiet -o json -u webhookd.service REQUEST_ID=mine-1)
for field in '"ROUTE":"/v1/events"' '"STATUS":"201"' '"METHOD":"POST"' '"TENANT":"acme"' '"KEY_ID":"key_'; do
  has "a request" "$field" "$line"
done
! journalctl --no-pager -o json -u webhookd.service | grep -q "$token" || fail "a token stands in the journal"
ok "requests: the access log by request id"

systemctl restart systemd-journald.service
as /v1/events -H 'X-Request-Id: mine-2' -d '{"type":"a"}' >/dev/null
wait_for REQUEST_ID=mine-2
ok "restart: a journal that was restarted is written to again"

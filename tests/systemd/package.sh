# The Debian package through its life: installed, started, upgraded, removed, purged. Runs inside the box.
. /payload/lib.sh

config=/etc/webhookd/webhookd.toml
healthy() { api /healthz >/dev/null 2>&1; }

# A container's way to keep services from starting; this is a machine.
rm -f /usr/sbin/policy-rc.d
# The index of all manual pages would be made anew at each step.
rm -f /var/lib/man-db/auto-update

# --- Nothing runs after the installation, and nothing would at the next boot: there is no certificate yet.
dpkg --install /payload/first.deb
is "after installing" inactive "$(property ActiveState)"
is "at boot" disabled "$(systemctl is-enabled webhookd.service || true)"
is "verify" "" "$(systemd-analyze verify webhookd.socket webhookd.service 2>&1)"
[ -e /usr/share/doc/webhookd/copyright ] && [ -e /usr/share/doc/webhookd/examples/low-port.conf ] || fail "no documents"
for page in man/man1/webhookd.1.gz man/man1/webhookd-serve.1.gz bash-completion/completions/webhookd zsh/vendor-completions/_webhookd; do
  [ -s "/usr/share/$page" ] || fail "no $page"
done
ok "install: as it should be"

# --- With a certificate in /etc/credstore it starts as it was shipped.
( cd /payload/tree; bash -e /payload/install-package.sh )
healthy || fail "does not serve"
admin /admin/tenants/acme -X PUT >/dev/null
webhookd check --quiet --config $config 2>/dev/null && fail "the shipped configuration needs a certificate"
ok "start: serves with the shipped configuration"

# --- An upgrade keeps the changed configuration and the store, and restarts what runs.
before=$(pid)
echo '# mine' >>$config
dpkg --force-confold --install /payload/second.deb
is "the version" 0.1.0-2 "$(dpkg-query --show --showformat='${Version}' webhookd)"
within 20 healthy
is "after the upgrade" "active active" "$(property ActiveState) $(property ActiveState webhookd.socket)"
[ "$before" != "$(pid)" ] || fail "not restarted"
grep -q '^# mine' $config || fail "the configuration was replaced"
admin /admin/tenants/acme >/dev/null
ok "upgrade: restarted, configuration and store kept"

# --- Removed: stopped, configuration and store stay.
dpkg --remove webhookd
! pgrep -x webhookd >/dev/null || fail "still runs"
! healthy || fail "still answers"
[ -e $config ] && [ -e /var/lib/private/webhookd/webhookd.redb ] || fail "configuration or store are gone"
ok "remove: stopped, configuration and store stay"

# --- Installed again, it is as it was.
dpkg --install /payload/second.deb
systemctl start webhookd.socket webhookd.service
healthy || fail "does not serve"
admin /admin/tenants/acme >/dev/null
is "at boot" enabled "$(systemctl is-enabled webhookd.service)"
ok "again: all is there"

# --- Purged: the store is the operator's to remove.
dpkg --purge webhookd
[ ! -e $config ] || fail "the configuration is left"
[ -e /var/lib/private/webhookd/webhookd.redb ] || fail "the store is gone"
! systemctl cat webhookd.service >/dev/null 2>&1 || fail "the unit is left"
is "links" "" "$(find /etc/systemd/system -name 'webhookd*')"
ok "purge: nothing left but the store"
